"""Who calls, and what that allows: set at the doors, asked where requests are admitted.

It goes through a context variable, as interceptors of gRPC and middleware of ASGI can hand nothing
else to what they wrap; tasks that serve the request inherit it.
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
"""Tokens of an answer: several routers may have to agree about each charge."""


class Caller:
    """Anybody: where no keys are asked for, every request is as its client wants it."""

    name: str | None = None

    def enter(self) -> None:
        """A request begins, which `leave` ends. Raises OverQuota; then it has not begun."""

    def leave(self) -> None:
        """A request has ended."""

    def admit(self, draft: RequestDraft) -> RequestDraft:
        """The request as this caller may have it. Raises Forbidden."""
        return draft

    @contextlib.contextmanager
    def charge(self, num_prompt_tokens: int) -> Iterator[Spend]:
        """Charges a prompt, and through what it yields each token that is generated. A request
        that fails before its first token costs nothing. Raises OverQuota."""
        yield lambda num_tokens: None


class KeyCaller(Caller):
    """The holder of a key."""

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


class Prepaid(Caller):
    """A caller whose prompts were charged together: what its client sent as one is paid as one."""

    def __init__(self, caller: Caller) -> None:
        self.name = caller.name


def narrowed(tenant_salt: bytes, client_salt: bytes) -> bytes:
    """A client's own salt divides what its key shares; no salt that it sends leads out of that."""
    if not client_salt:
        return tenant_salt
    return hashlib.blake2b(client_salt, key=tenant_salt, digest_size=32).digest()


ANYBODY = Caller()
CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)
