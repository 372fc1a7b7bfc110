"""The gate behind both doors: from the key that a client shows to the caller that it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from router.access.caller import ANYBODY, Caller, KeyCaller
from router.access.keys import KeyFile
from router.access.limits import Meter, UsageTally
from router.access.shared_tallies import SharedTallies, path_for
from router.errors import Forbidden, Unauthenticated

log = logging.getLogger("tandem.router.access.gate")
HOW = "send it as `Authorization: Bearer KEY`"


class Gate:
    """One for all doors of a router: what a key uses, it uses at both. No keys, no gate."""

    def __init__(self, keys: KeyFile | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._shared: SharedTallies | None = None

    def count_together(self, *identity: object) -> None:
        """What a key uses, with all routers of this machine that have the same identity."""
        if self._keys is None:
            return
        try:
            self._shared = SharedTallies(path_for(*identity))
        except OSError as error:
            log.warning("this router alone counts what its keys use: %s", error)
        self._meters.clear()

    def close(self) -> None:
        """No request is under way any more."""
        if self._shared is not None:
            self._shared.close()

    @property
    def asks_for_keys(self) -> bool:
        return self._keys is not None

    def caller(self, authorization: str | None) -> Caller:
        """Whose key that is. Raises Unauthenticated."""
        if self._keys is None:
            return ANYBODY
        if authorization is None:
            raise Unauthenticated(f"an API key is needed: {HOW}")
        scheme, _, key = authorization.partition(" ")
        now_s = self._clock()
        ring = self._keys.ring(now_s)
        tenant = ring.find(key.strip()) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise Unauthenticated(f"this API key is not known here: {HOW}")
        meter = self._meters.get(tenant.name)
        if meter is None:
            meter = Meter(tenant.entry, now_s, self._tally(tenant.name))
            self._meters[tenant.name] = meter
        meter.set_limits(tenant.entry, now_s)
        return KeyCaller(tenant, meter, self._clock)

    def admin(self, authorization: str | None) -> Caller:
        """As `caller`, of a key that may see what concerns all. Raises Forbidden too."""
        caller = self.caller(authorization)
        if isinstance(caller, KeyCaller) and not caller.is_admin:
            raise Forbidden("this needs a key with `admin: true`")
        return caller

    def _tally(self, name: str) -> UsageTally | None:
        return None if self._shared is None else self._shared.tally(name)
