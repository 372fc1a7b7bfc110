"""Where requests wait until workers have room for them; a shell around admission."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from router.config import RouterConfig
from router.errors import Overloaded
from router.fleet import Fleet
from router.placing.cost_model import Hits
from router.placing.ledger import PromptHashes
from router.placing.placement import Need, Placement, Refusal, Slo
from router.queueing.admission import Admission, Judgement, Verdict
from router.queueing.fair_queue import Waiter
from router.requests import GenerateRequest

ROUND_S = 0.002
"""Between two looks at the queue; who was admitted in one has been placed before the next."""
LONG_PROMPT_TOKENS = 16384
"""Longer prompts are hashed in a thread, so that other streams do not wait for them."""


@dataclass(frozen=True, slots=True)
class _Guest:
    waiter: Waiter
    request: GenerateRequest
    hashes: PromptHashes
    admitted: asyncio.Future[None]


class Lobby:
    """`enter` before a journey. Nothing is predicted, and nobody waits here, before the workers
    have told what their steps take."""

    def __init__(self, fleet: Fleet, config: RouterConfig) -> None:
        self._fleet = fleet
        self._config = config
        self._admission = Admission(config.max_queued)
        self._guests: dict[str, _Guest] = {}
        self._round: asyncio.TimerHandle | None = None
        fleet.on_room = self._look_soon

    def __len__(self) -> int:
        return len(self._guests)

    async def enter(self, request: GenerateRequest) -> PromptHashes:
        """Returns when it may be placed. Raises Overloaded when that would be too late.

        Whoever is cancelled here leaves the queue.
        """
        hashes = PromptHashes(request.cache_salt)
        if len(request.prompt_tokens) > LONG_PROMPT_TOKENS:
            await asyncio.to_thread(self._hash, request, hashes)
        slo = Slo(request.ttft_target_s, request.tpot_target_s)
        found = self._place(request, hashes, slo)
        if isinstance(found, Refusal) or not self._fleet.ledger.calibrated:
            return hashes  # the journey knows what to do about that
        waiter = self._waiter(request, slo, found)
        num_workers = self._fleet.ledger.num_ready
        judged = self._admission.arrive(waiter, slo, found, num_workers, self._now)
        if judged.verdict is Verdict.REFUSE:
            raise _refusal(request, judged)
        if judged.verdict is Verdict.WAIT:
            await self._wait(_Guest(waiter, request, hashes, self._future()))
        return hashes

    async def _wait(self, guest: _Guest) -> None:
        key = guest.waiter.key
        self._guests[key] = guest
        gone = self._admission.overflow()
        if gone is not None:
            full = f"{self._config.max_queued} requests wait already"
            self._refuse(gone, Judgement(Verdict.REFUSE, gone.work_s + 1.0, full))
        self._look_soon()
        try:
            await guest.admitted
        finally:
            self._guests.pop(key, None)
            self._admission.queue.remove(key)

    def _look_soon(self) -> None:
        if self._guests and self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.call_later(ROUND_S, self._look)

    def _look(self) -> None:
        """One request may go on, or is refused; others have their turn in the next round."""
        self._round = None
        for late in self._admission.too_late(self._now):
            self._refuse(late, Judgement(Verdict.REFUSE, late.work_s, "it waited too long"))
        waiter = self._admission.queue.first()
        if waiter is None:
            return
        guest = self._guests[waiter.key]
        slo = self._slo_left(waiter, guest.request)
        found = self._place(guest.request, guest.hashes, slo)
        if isinstance(found, Refusal):
            self._admission.queue.remove(waiter.key)
            self._admit(guest)
        else:
            judged = self._admission.again(waiter, slo, found, self._now)
            if judged.verdict is Verdict.WAIT:
                return  # until somebody has room
            if judged.verdict is Verdict.ADMIT:
                self._admit(guest)
            else:
                self._refuse(waiter, judged)
        self._look_soon()

    def _admit(self, guest: _Guest) -> None:
        if not guest.admitted.done():
            guest.admitted.set_result(None)
        self._guests.pop(guest.waiter.key, None)

    def _refuse(self, waiter: Waiter, judged: Judgement) -> None:
        guest = self._guests.pop(waiter.key, None)
        if guest is not None and not guest.admitted.done():
            guest.admitted.set_exception(_refusal(guest.request, judged))

    def _waiter(self, request: GenerateRequest, slo: Slo, found: Placement) -> Waiter:
        return Waiter(
            key=f"{request.request_id}~{secrets.token_hex(4)}",
            tenant=request.tenant,
            priority=request.priority,
            work_s=found.prefill_s,
            deadline_s=None if slo.ttft_s is None else self._now + slo.ttft_s,
        )

    def _place(
        self, request: GenerateRequest, hashes: PromptHashes, slo: Slo
    ) -> Placement | Refusal:
        ledger, max_tokens = self._fleet.ledger, request.sampling.max_tokens
        need = Need(
            key=request.request_id,
            num_prompt_tokens=len(request.prompt_tokens),
            num_tokens=request.num_tokens,
            num_new_tokens=ledger.lengths.expected(request.tenant, max_tokens),
            single_token=max_tokens == 1,
            slo=slo,
            split=self._config.split,
        )
        return ledger.place(need, self._hits(request, hashes), self._now)

    def _hits(self, request: GenerateRequest, hashes: PromptHashes) -> Hits:
        return self._fleet.ledger.hits(request.prompt_tokens, hashes)

    def _hash(self, request: GenerateRequest, hashes: PromptHashes) -> None:
        for size in list(self._fleet.ledger.table.block_sizes):
            hashes.of(request.prompt_tokens, size)

    def _slo_left(self, waiter: Waiter, request: GenerateRequest) -> Slo:
        ttft_s = None if waiter.deadline_s is None else max(1e-3, waiter.deadline_s - self._now)
        return Slo(ttft_s, request.tpot_target_s)

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _refusal(request: GenerateRequest, judged: Judgement) -> Overloaded:
    return Overloaded(f"request {request.request_id}: {judged.cause}", judged.retry_after_s)
