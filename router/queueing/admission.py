"""Admission: which requests are served, in which order, and which are refused at once.

Pure: the caller passes the best placement that there is now, and the time. A request is admitted
when it can be served in time behind all that goes before it, and refused on arrival otherwise. An
admitted request is served, late if need be. It is placed while the queues at the workers are
short: requests wait in the router, where their order can still change.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from router.placing.placement_request import Placement
from router.queueing.fair_queue import FairQueue, Waiter
from router.queueing.forecast import Forecast
from wire.identity import WorkerRef

LEAST_RETRY_S = 0.1
NUM_TRIED = 4
"""Number of waiting requests that are offered to the workers in one look at the queue."""
SHARE = 4
"""A tenant may occupy this many times the places that are still free: the last are for others."""
TOO_LATE = 2.0
"""A request that waited for this many times its target is refused."""


class Verdict(enum.Enum):
    ADMIT = "admit"
    WAIT = "wait"
    REFUSE = "refuse"


class Judgement(msgspec.Struct, frozen=True):
    verdict: Verdict
    retry_after_s: float = 0.0
    cause: str = ""
    reason: str = "too_late"
    """For metrics: one of router.errors.REASONS."""


class Turn(msgspec.Struct, frozen=True):
    """A request leaves the queue, admitted or refused."""

    waiter: Waiter
    found: Placement | None
    judged: Judgement


class Admission:
    """The queue of one router, and the judgement of who enters and leaves it."""

    def __init__(self, max_queued: int) -> None:
        self._max_queued = max_queued
        self.queue = FairQueue()
        self.forecast = Forecast()

    def arrive(self, waiter: Waiter, found: Placement, num_workers: int, now: float) -> Judgement:
        """Judge a new request; on WAIT it has been queued."""
        wait_s = max(found.relief_s, self.forecast.wait_s(self.queue, waiter, num_workers, now))
        refusal = self._refusal(waiter, found, num_workers, wait_s, now)
        if refusal is not None:
            return refusal
        first = self.queue.first()
        if not has_room(found) or (first is not None and first.priority <= waiter.priority):
            if not self._has_place(waiter):
                return Judgement(
                    Verdict.REFUSE,
                    max(1.0, wait_s),
                    f"{len(self.queue)} requests wait already",
                    "queue_full",
                )
            self.queue.add(waiter)
            self.forecast.brought(waiter, now)
            return Judgement(Verdict.WAIT)
        self.forecast.brought(waiter, now)
        self.queue.charge(waiter.tenant, waiter.work_s)
        return Judgement(Verdict.ADMIT)

    def next(self, find: Callable[[Waiter], Placement | None], now: float) -> Turn | None:
        """The next request that leaves the queue now, if any. `find` returns where it would go,
        None if nowhere.

        A request that waits for its best worker lets others pass, except to that worker.
        """
        wanted: set[WorkerRef] = set()
        for waiter in self.queue.foremost(NUM_TRIED):
            found = find(waiter)
            if found is None:
                self.queue.remove(waiter.key)
                return Turn(waiter, None, Judgement(Verdict.ADMIT))
            if found.first not in wanted:
                judged = self.again(waiter, found, now)
                if judged.verdict is not Verdict.WAIT:
                    return Turn(waiter, found, judged)
            wanted.add(found.first)
        return None

    def again(self, waiter: Waiter, found: Placement, now: float) -> Judgement:
        """Judge a waiting request once more; it leaves the queue unless it has to wait on."""
        late_s = now - waiter.due_s
        if waiter.target_s is not None and late_s > (TOO_LATE - 1) * waiter.target_s:
            self.queue.remove(waiter.key)
            cause = f"its first token is {late_s:.3g} s late"
            return Judgement(Verdict.REFUSE, max(LEAST_RETRY_S, late_s), cause)
        if not has_room(found):
            return Judgement(Verdict.WAIT)
        self.queue.remove(waiter.key)
        self.queue.charge(waiter.tenant, waiter.work_s)
        self.forecast.turn(waiter, len(self.queue) > 0, now)
        return Judgement(Verdict.ADMIT)

    def _refusal(
        self, waiter: Waiter, found: Placement, num_workers: int, wait_s: float, now: float
    ) -> Judgement | None:
        if waiter.target_s is None:
            return None
        ttft_s = wait_s + found.ttft_s
        left_s = waiter.due_s - now
        late_s = self.forecast.safely(ttft_s) - left_s
        if late_s > 0:
            cause = f"its first token would come in {ttft_s:.3g} s, its target is in {left_s:.3g} s"
            return Judgement(Verdict.REFUSE, max(LEAST_RETRY_S, late_s), cause)
        if self._displaces(waiter, found, num_workers, wait_s, now):
            cause = "others of its tenant, who were let in before, would be too late"
            return Judgement(Verdict.REFUSE, max(LEAST_RETRY_S, waiter.work_s), cause)
        return None

    def _displaces(
        self, waiter: Waiter, found: Placement, num_workers: int, wait_s: float, now: float
    ) -> bool:
        """A request behind it would be in time without it, and late with it."""
        before, behind = self.queue.lane(waiter).part(waiter.due_s)
        before_s = sum(each.work_s for each in before)
        # Of a second's work so much is for its tenant.
        speed = self.forecast.speed(num_workers)
        if before_s and wait_s:
            speed = min(speed, before_s / wait_s)
        for each in behind:
            without_s = before_s / speed + found.queue_s + each.work_s
            with_s = without_s + waiter.work_s / speed
            if without_s <= each.due_s - now < with_s:
                return True
            before_s += each.work_s
        return False

    def _has_place(self, waiter: Waiter) -> bool:
        num_free = self._max_queued - len(self.queue)
        return num_free > 0 and len(self.queue.lane(waiter)) < SHARE * num_free


def has_room(found: Placement) -> bool:
    """The worker has little to do, and meets the TPOT target, or would not even after a wait."""
    return not found.crowded and found.relief_s == 0
