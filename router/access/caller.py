"""The caller of a request: set by the servers, read where requests are admitted.

A context variable carries it, since gRPC interceptors and ASGI middleware cannot pass arguments to
what they wrap; tasks that serve the request inherit it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import msgspec

from router.access.keys import Tenant
from router.access.limits import Meter
from router.errors import Forbidden, RouterError
from router.requests.request import RequestDraft

Spend = Callable[[int], None]
CHARGED_TOGETHER = 16
"""Tokens of an answer that are charged at once, since each charge may need a lock shared by
routers."""


class Caller:
    """An anonymous caller, where no keys are required: every request is admitted unchanged."""

    name: str | None = None

    def enter(self) -> None:
        """Count a new request, until `leave`. Raises OverQuota, and then counts nothing."""

    def leave(self) -> None:
        """Count the end of a request."""

    def admit(self, draft: RequestDraft) -> RequestDraft:
        """The request, restricted to what this caller may ask for. Raises Forbidden."""
        return draft

    @contextlib.contextmanager
    def charge(self, num_prompt_tokens: int) -> Iterator[Spend]:
        """Charge a prompt; yields a function that charges generated tokens.

        A request that fails before its first token is refunded. Raises OverQuota.
        """
        yield lambda num_tokens: None


class KeyCaller(Caller):
    """A caller with an API key."""

    def __init__(self, tenant: Tenant, meter: Meter, clock: Callable[[], float]) -> None:
        self.name = tenant.name
        self.is_admin = tenant.entry.admin
        self._tenant = tenant
        self._meter = meter
        self._clock = clock

    def enter(self) -> None:
        self._meter.enter(self._clock())

    def leave(self) -> None:
        self._meter.leave()

    def admit(self, draft: RequestDraft) -> RequestDraft:
        traits = msgspec.structs.replace(
            draft.traits,
            tenant=self._tenant.name,
            priority=self._priority(draft),
            cache_salt=narrowed(self._tenant.salt, draft.traits.cache_salt),
        )
        return msgspec.structs.replace(draft, traits=traits)

    @contextlib.contextmanager
    def charge(self, num_prompt_tokens: int) -> Iterator[Spend]:
        self._meter.take_prompt(num_prompt_tokens, self._clock())
        num_spent = num_charged = 0

        def settle() -> None:
            nonlocal num_charged
            if num_spent > num_charged:
                self._meter.take_output(num_spent - num_charged, self._clock())
                num_charged = num_spent

        def spend(num_tokens: int) -> None:
            nonlocal num_spent
            num_spent += num_tokens
            if num_spent - num_charged >= CHARGED_TOGETHER:
                settle()

        try:
            yield spend
        except RouterError:
            if num_spent == 0:
                self._meter.give_back(num_prompt_tokens, self._clock())
            raise
        finally:
            settle()

    def _priority(self, draft: RequestDraft) -> int:
        wanted, most = draft.traits.priority, self._tenant.entry.max_priority
        if not draft.has_priority:
            return max(0, most)
        if wanted < most:
            raise Forbidden(
                f"priority is {wanted}: requests of this key may be no more urgent than {most}",
                "priority",
            )
        return wanted


def narrowed(tenant_salt: bytes, client_salt: bytes) -> bytes:
    """The salt for a client's own salt: it can only divide what the key shares, never leave it."""
    if not client_salt:
        return tenant_salt
    return hashlib.blake2b(client_salt, key=tenant_salt, digest_size=32).digest()


ANYBODY = Caller()
CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)
