"""The queue in which requests wait until workers have room; a shell around the pure admission."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from functools import partial

from router.config import RouterConfig
from router.errors import DeadlineExceeded, Overloaded
from router.fleet.fleet import Fleet
from router.placing.ledger import PromptHashes
from router.placing.placement_request import Placement, Refusal, Slo
from router.queueing.admission import Admission, Judgement, Verdict
from router.queueing.admitted import Admitted, Found, placement_request
from router.queueing.fair_queue import Waiter
from router.requests.request import GenerateRequest

ROUND_S = 0.002
"""Delay between an event that makes room and a look at the queue: such events come in bursts."""
AWAY_S = 0.1
"""Interval between looks at the queue while all workers are away and expected back."""
LONG_PROMPT_TOKENS = 16384
"""Longer prompts are hashed in a thread, so that other streams do not wait for them."""


@dataclass(slots=True)
class _Waiting:
    waiter: Waiter
    request: GenerateRequest
    hashes: PromptHashes
    admitted: asyncio.Future[Found | None]
    found: Found | None = None
    """By the newest look at the workers."""


class AdmissionQueue:
    """A request enters here before its journey. Until the workers have told what their steps take,
    nothing is predicted and no request waits."""

    def __init__(self, fleet: Fleet, config: RouterConfig) -> None:
        self._fleet = fleet
        self._config = config
        self._admission = Admission(config.max_queued)
        self._waiting: dict[str, _Waiting] = {}
        self._round: asyncio.Handle | None = None
        fleet.on_capacity = self._look_soon

    def __len__(self) -> int:
        return len(self._waiting)

    async def enter(self, request: GenerateRequest) -> Admitted:
        """Wait until the request may be placed. Raises Overloaded at once when it would be too late
        by then, and DeadlineExceeded at the request's deadline.

        A request that is cancelled here leaves the queue.
        """
        arrived_s = self._now
        hashes = PromptHashes(request.traits)
        if len(request.prompt_tokens) > LONG_PROMPT_TOKENS:
            await asyncio.to_thread(self._hash, request, hashes)
        ledger = self._fleet.ledger
        found = None
        if ledger.calibrated:
            found = self._place(request, hashes, self._slo(request, arrived_s))
        if found is None:
            return Admitted(hashes, arrived_s)  # the journey knows what to do about that
        num_prompt_tokens, tpot_s = len(request.prompt_tokens), request.tpot_target_s
        ledger.came(num_prompt_tokens, tpot_s, found.hits, arrived_s)
        waiter = _waiter(request, found.placement, arrived_s)
        judged = self._admission.arrive(waiter, found.placement, ledger.num_ready, self._now)
        if judged.verdict is Verdict.REFUSE:
            raise _refusal(request, judged)
        if judged.verdict is Verdict.WAIT:
            found = await self._wait(_Waiting(waiter, request, hashes, self._future()))
        return Admitted(hashes, arrived_s, found, partial(self._on_first_token, waiter))

    async def _wait(self, waiting: _Waiting) -> Found | None:
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
        """Let one request go on. The next has its turn in the event loop's next iteration, when the
        first has been placed and counts."""
        self._round = None
        away_s = self._fleet.rejoin_wait_s
        if away_s and not self._fleet.ready:
            self._round = asyncio.get_running_loop().call_later(min(away_s, AWAY_S), self._look)
            return
        turn = self._admission.next(self._find, self._now)
        if turn is None:
            return  # until a worker has room
        waiting = self._waiting[turn.waiter.key]
        if turn.judged.verdict is Verdict.ADMIT:
            self._admit(waiting)
        else:
            self._refuse(waiting, turn.judged)
        if self._waiting:
            self._round = asyncio.get_running_loop().call_soon(self._look)

    def _find(self, waiter: Waiter) -> Placement | None:
        waiting = self._waiting[waiter.key]
        slo = self._slo(waiting.request, waiter.arrived_s)
        waiting.found = self._place(waiting.request, waiting.hashes, slo)
        return None if waiting.found is None else waiting.found.placement

    def _admit(self, waiting: _Waiting) -> None:
        if not waiting.admitted.done():
            waiting.admitted.set_result(waiting.found)
        self._waiting.pop(waiting.waiter.key, None)

    def _refuse(self, waiting: _Waiting, judged: Judgement) -> None:
        self._waiting.pop(waiting.waiter.key, None)
        if not waiting.admitted.done():
            waiting.admitted.set_exception(_refusal(waiting.request, judged))

    def _on_first_token(self, waiter: Waiter, now: float) -> None:
        if waiter.target_s is not None:
            self._admission.forecast.on_first_token(now <= waiter.due_s)

    def _place(self, request: GenerateRequest, hashes: PromptHashes, slo: Slo) -> Found | None:
        """None when no worker can serve it."""
        ledger = self._fleet.ledger
        wanted = placement_request(request, self._config, ledger, request.request_id, slo)
        hits = ledger.hits(request.prompt_tokens, hashes)
        placement = ledger.place(wanted, hits, self._now)
        if isinstance(placement, Refusal):
            return None
        return Found(placement, hits, ledger, ledger.version)

    def _hash(self, request: GenerateRequest, hashes: PromptHashes) -> None:
        for size in list(self._fleet.ledger.table.block_sizes):
            hashes.of(request.prompt_tokens, size)

    def _slo(self, request: GenerateRequest, arrived_s: float) -> Slo:
        """The rest of its targets, less the safety margin."""
        target_s = request.ttft_target_s
        left_s = None if target_s is None else arrived_s + target_s - self._now
        return Slo(self._admission.forecast.target(left_s), request.tpot_target_s)

    def _future(self) -> asyncio.Future[Found | None]:
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
