"""Where requests wait until workers have room for them; a shell around admission."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from functools import partial

from router.config import RouterConfig
from router.errors import DeadlineExceeded, Overloaded
from router.fleet.fleet import Fleet
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, Refusal, Slo
from router.queueing.admission import Admission, Judgement, Verdict
from router.queueing.admitted import Admitted, need_of
from router.queueing.fair_queue import Waiter
from router.requests.request import GenerateRequest

ROUND_S = 0.002
"""Between news of room and a look at the queue: news come in swarms."""
AWAY_S = 0.1
"""Between looks at the queue while all workers are away, which come back by themselves."""
LONG_PROMPT_TOKENS = 16384
"""Longer prompts are hashed in a thread, so that other streams do not wait for them."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a request may go, by which ledger, and the ledger's version at that time."""

    placement: Placement | None
    ledger: Ledger
    version: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    waiter: Waiter
    request: GenerateRequest
    hashes: PromptHashes
    admitted: asyncio.Future[_Found]


class AdmissionQueue:
    """`enter` before a journey. Nothing is predicted, and nobody waits here, before the workers
    have told what their steps take."""

    def __init__(self, fleet: Fleet, config: RouterConfig) -> None:
        self._fleet = fleet
        self._config = config
        self._admission = Admission(config.max_queued)
        self._waiting: dict[str, _Waiting] = {}
        self._round: asyncio.Handle | None = None
        fleet.on_room = self._look_soon

    def __len__(self) -> int:
        return len(self._waiting)

    async def enter(self, request: GenerateRequest) -> Admitted:
        """Returns when it may be placed. Raises Overloaded at once when it would be too late by
        then, and DeadlineExceeded when the request's time is over.

        Whoever is cancelled here leaves the queue.
        """
        arrived_s = self._now
        hashes = PromptHashes(request.traits)
        if len(request.prompt_tokens) > LONG_PROMPT_TOKENS:
            await asyncio.to_thread(self._hash, request, hashes)
        ledger = self._fleet.ledger
        found = self._place(request, hashes, self._slo(request, arrived_s))
        if isinstance(found, Refusal) or not ledger.calibrated:
            return Admitted(hashes, arrived_s)  # the journey knows what to do about that
        waiter = _waiter(request, found, arrived_s)
        judged = self._admission.arrive(waiter, found, ledger.num_ready, self._now)
        if judged.verdict is Verdict.REFUSE:
            raise _refusal(request, judged)
        best = _Found(found, ledger, ledger.version)
        if judged.verdict is Verdict.WAIT:
            best = await self._wait(_Waiting(waiter, request, hashes, self._future()))
        came = partial(self._came, waiter)
        return Admitted(hashes, arrived_s, best.placement, best.ledger, best.version, came)

    async def _wait(self, waiting: _Waiting) -> _Found:
        key, timeout_s = waiting.waiter.key, waiting.request.timeout_s
        self._waiting[key] = waiting
        self._look_soon()
        try:
            if await self._fleet.clock.wait_for(waiting.admitted, timeout_s):
                return waiting.admitted.result()
            text = f"its {timeout_s:.3g} s are over while it waited for a worker with room"
            raise DeadlineExceeded(f"request {waiting.request.request_id}: {text}")
        finally:
            self._waiting.pop(key, None)
            self._admission.queue.remove(key)

    def _look_soon(self) -> None:
        if self._waiting and self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.call_later(ROUND_S, self._look)

    def _look(self) -> None:
        """One request may go on. The next has its turn when the loop comes round again: the first
        has been placed by then, and counts."""
        self._round = None
        away_s = self._fleet.may_come_back_s
        if away_s and not self._fleet.ready:
            self._round = asyncio.get_running_loop().call_later(min(away_s, AWAY_S), self._look)
            return
        turn = self._admission.next(self._find, self._now)
        if turn is None:
            return  # until somebody has room
        waiting = self._waiting[turn.waiter.key]
        if turn.judged.verdict is Verdict.ADMIT:
            self._admit(waiting, turn.found)
        else:
            self._refuse(waiting, turn.judged)
        if self._waiting:
            self._round = asyncio.get_running_loop().call_soon(self._look)

    def _find(self, waiter: Waiter) -> Placement | None:
        waiting = self._waiting[waiter.key]
        slo = self._slo(waiting.request, waiter.arrived_s)
        found = self._place(waiting.request, waiting.hashes, slo)
        return None if isinstance(found, Refusal) else found

    def _admit(self, waiting: _Waiting, found: Placement | None) -> None:
        if not waiting.admitted.done():
            ledger = self._fleet.ledger
            waiting.admitted.set_result(_Found(found, ledger, ledger.version))
        self._waiting.pop(waiting.waiter.key, None)

    def _refuse(self, waiting: _Waiting, judged: Judgement) -> None:
        self._waiting.pop(waiting.waiter.key, None)
        if not waiting.admitted.done():
            waiting.admitted.set_exception(_refusal(waiting.request, judged))

    def _came(self, waiter: Waiter, now: float) -> None:
        if waiter.target_s is not None:
            self._admission.forecast.came(now <= waiter.due_s)

    def _place(
        self, request: GenerateRequest, hashes: PromptHashes, slo: Slo
    ) -> Placement | Refusal:
        ledger = self._fleet.ledger
        need = need_of(request, self._config, ledger, request.request_id, slo)
        return ledger.place(need, self._hits(request, hashes), self._now)

    def _hits(self, request: GenerateRequest, hashes: PromptHashes) -> Hits:
        return self._fleet.ledger.hits(request.prompt_tokens, hashes)

    def _hash(self, request: GenerateRequest, hashes: PromptHashes) -> None:
        for size in list(self._fleet.ledger.table.block_sizes):
            hashes.of(request.prompt_tokens, size)

    def _slo(self, request: GenerateRequest, arrived_s: float) -> Slo:
        """What is left of its targets, and has to be aimed at."""
        target_s = request.ttft_target_s
        left_s = None if target_s is None else arrived_s + target_s - self._now
        return Slo(self._admission.forecast.target(left_s), request.tpot_target_s)

    def _future(self) -> asyncio.Future[_Found]:
        return asyncio.get_running_loop().create_future()

    @property
    def _now(self) -> float:
        return self._fleet.clock.now()


def _waiter(request: GenerateRequest, found: Placement, arrived_s: float) -> Waiter:
    return Waiter(
        key=f"{request.request_id}~{secrets.token_hex(4)}",
        tenant=request.traits.tenant,
        priority=request.traits.priority,
        work_s=found.prefill_s,
        arrived_s=arrived_s,
        target_s=request.ttft_target_s,
    )


def _refusal(request: GenerateRequest, judged: Judgement) -> Overloaded:
    text = f"request {request.request_id}: {judged.cause}"
    return Overloaded(text, judged.retry_after_s, reason=judged.reason)
