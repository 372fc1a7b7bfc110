"""Which requests are served, when, and which are refused at once because they would be too late.

Pure: the caller asks with a prediction for the best way that there is now, and tells the time. A
request is admitted while the queues at the workers are short, so that what waits, waits here, where
its order is still open.
"""

from __future__ import annotations

import enum

import msgspec

from router.placing.placement import Placement, Slo
from router.queueing.fair_queue import FairQueue, Waiter

HOLD_S = 0.2
"""Workers have so much prompt work queued at most, as long as there is a choice."""
LEAST_RETRY_S = 0.1


class Verdict(enum.Enum):
    ADMIT = "admit"
    WAIT = "wait"
    REFUSE = "refuse"


class Judgement(msgspec.Struct, frozen=True):
    verdict: Verdict
    retry_after_s: float = 0.0
    cause: str = ""


class Admission:
    """The queue of one router, and the judgement of who leaves it."""

    def __init__(self, max_queued: int) -> None:
        self._max_queued = max_queued
        self.queue = FairQueue()

    def arrive(
        self, waiter: Waiter, slo: Slo, found: Placement, num_workers: int, now: float
    ) -> Judgement:
        """For a new request: whether it goes on, waits, or need not try. It is queued on WAIT."""
        ahead_s = self.queue.ahead_s(waiter.tenant, waiter.priority) / max(1, num_workers)
        judgement = self._judge(waiter, slo, found, now, ahead_s)
        if judgement.verdict is Verdict.ADMIT and self._somebody_first(waiter):
            judgement = Judgement(Verdict.WAIT)
        if judgement.verdict is Verdict.ADMIT:
            self.queue.charge(waiter.tenant, waiter.work_s)
        elif judgement.verdict is Verdict.WAIT:
            self.queue.add(waiter)
        return judgement

    def overflow(self) -> Waiter | None:
        """Who has to leave because the queue is too long, if anybody; it is removed."""
        if len(self.queue) <= self._max_queued:
            return None
        last = self.queue.last()
        return None if last is None else self.queue.remove(last.key)

    def again(self, waiter: Waiter, slo: Slo, found: Placement, now: float) -> Judgement:
        """For the first in the queue. It leaves the queue unless it has to wait on."""
        judgement = self._judge(waiter, slo, found, now, 0.0)
        if judgement.verdict is Verdict.WAIT:
            return judgement
        self.queue.remove(waiter.key)
        if judgement.verdict is Verdict.ADMIT:
            self.queue.charge(waiter.tenant, waiter.work_s)
        return judgement

    def too_late(self, now: float) -> list[Waiter]:
        """Those that would be too late even alone; they are removed."""
        late = [
            waiter
            for waiter in self.queue
            if waiter.deadline_s is not None and now + waiter.work_s > waiter.deadline_s
        ]
        for waiter in late:
            self.queue.remove(waiter.key)
        return late

    def _judge(
        self,
        waiter: Waiter,
        slo: Slo,
        found: Placement,
        now: float,
        ahead_s: float,
    ) -> Judgement:
        ttft_s = found.ttft_s + ahead_s
        due_s = waiter.deadline_s
        if due_s is not None and now + ttft_s > due_s:
            late_s = now + ttft_s - due_s
            return Judgement(
                Verdict.REFUSE,
                max(LEAST_RETRY_S, late_s),
                f"its first token would come in {ttft_s:.3g} s, its target is in "
                f"{max(0.0, due_s - now):.3g} s",
            )
        if ahead_s > 0 or found.queue_s > HOLD_S:
            return Judgement(Verdict.WAIT)
        # Where nothing else decodes, waiting makes nothing better.
        if slo.tpot_s is not None and found.tpot_s > slo.tpot_s and found.num_decoding:
            return Judgement(Verdict.WAIT)
        return Judgement(Verdict.ADMIT)

    def _somebody_first(self, waiter: Waiter) -> bool:
        first = self.queue.first()
        return first is not None and first.priority <= waiter.priority
