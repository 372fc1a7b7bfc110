"""The gate of all servers: maps the API key of a request to its caller."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from router.access.caller import ANYBODY, Caller, KeyCaller
from router.access.keys import KeyFile
from router.access.limits import KeyUsage, Meter
from router.access.shared_usage import SharedUsage, path_for
from router.errors import Forbidden, Unauthenticated

log = logging.getLogger("tandem.router.access.gate")
HOW = "send it as `Authorization: Bearer KEY`"


class Gate:
    """Checks keys for all of a router's servers, which share each key's limits."""

    def __init__(self, keys: KeyFile | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._shared: SharedUsage | None = None

    def share_usage(self, *identity: object) -> None:
        """Share each key's usage with all routers on this machine that have the same identity."""
        if self._keys is None:
            return
        try:
            self._shared = SharedUsage(path_for(*identity))
        except OSError as error:
            log.warning("usage of keys is counted by this router alone: %s", error)
        self._meters.clear()

    def close(self) -> None:
        """Close the shared usage file; call when no request is running."""
        if self._shared is not None:
            self._shared.close()

    @property
    def requires_keys(self) -> bool:
        return self._keys is not None

    def caller(self, authorization: str | None) -> Caller:
        """The caller with this Authorization header. Raises Unauthenticated."""
        if self._keys is None:
            return ANYBODY
        if authorization is None:
            raise Unauthenticated(f"an API key is required: {HOW}")
        scheme, _, key = authorization.partition(" ")
        now_s = self._clock()
        ring = self._keys.ring(now_s)
        tenant = ring.find(key.strip()) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise Unauthenticated(f"unknown API key: {HOW}")
        meter = self._meters.get(tenant.name)
        if meter is None:
            meter = Meter(tenant.entry, now_s, self._usage(tenant.name))
            self._meters[tenant.name] = meter
        meter.set_limits(tenant.entry, now_s)
        return KeyCaller(tenant, meter, self._clock)

    def admin(self, authorization: str | None) -> Caller:
        """Like `caller`, for a key with `admin: true`. Raises Forbidden too."""
        caller = self.caller(authorization)
        if isinstance(caller, KeyCaller) and not caller.is_admin:
            raise Forbidden("this requires a key with `admin: true`")
        return caller

    def _usage(self, name: str) -> KeyUsage | None:
        return None if self._shared is None else self._shared.usage(name)
