"""How long a newcomer would wait, with all that is served before it; learned from what came true.

Pure: the caller tells the time.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from router.queueing.fair_queue import FairQueue, Waiter

BROUGHT_S = 10.0
"""For so long a request counts in how much work its tenant brings."""
MOST_STREAMS = 64
"""Tenants and classes whose work is foreseen; those that were quiet the longest are not."""
PACE_S = 5.0
"""For so long, of the time in which somebody waited, a turn counts in how fast turns come."""
FASTEST, SLOWEST = 4.0, 1 / 8
"""Seconds of predicted work that one worker may get done in a second."""
FEW_TURNS_S = 0.25
"""What the usual pace counts beside what was measured."""
SAFE = 0.97
"""Share of those let in that shall keep their target."""
LEAST_MARGIN, MOST_MARGIN, MARGIN_STEP = 0.1, 1.0, 0.01
"""How large it is, and how fast it changes; in parts of what is predicted."""

_Stream = tuple[int, str]


class Forecast:
    """Knows what tenants bring, how fast turns come, and by how much predictions fell short."""

    def __init__(self) -> None:
        self._brought: OrderedDict[_Stream, tuple[float, float]] = OrderedDict()
        self._worked_s = 0.0
        self._passed_s = 0.0
        self._last_turn_s: float | None = None
        self.margin = LEAST_MARGIN

    def wait_s(self, queue: FairQueue, waiter: Waiter, num_workers: int, now: float) -> float:
        """Until its turn. Before it come more urgent classes, its tenant's nearer deadlines, and of
        other tenants as much as lets them have no more than its own has by then: what they have
        here, and what they will bring meanwhile."""
        if not len(queue):
            return 0.0
        own_s = sum(each.work_s for each in queue.lane(waiter).part(waiter.due_s)[0])
        others = self._others(queue, waiter, queue.had_s(waiter.tenant) + own_s, now)
        speed = self.speed(num_workers)
        wait_s = own_s / speed
        for _ in range(ROUNDS):
            before_s = sum(min(most, here + rate * wait_s) for here, rate, most in others)
            wait_s = (own_s + before_s) / speed
        return wait_s

    def speed(self, num_workers: int) -> float:
        """Seconds of predicted work that get done in one: a second at each worker, unless turns
        came faster or slower than that of late."""
        usual = max(1, num_workers)
        measured = (self._worked_s + usual * FEW_TURNS_S) / (self._passed_s + FEW_TURNS_S)
        return min(FASTEST * usual, max(SLOWEST * usual, measured))

    def brought(self, waiter: Waiter, now: float) -> None:
        """It was let in."""
        stream = waiter.priority, waiter.tenant
        rate = self._rate(stream, now) + waiter.work_s / BROUGHT_S
        self._brought[stream] = rate, now
        self._brought.move_to_end(stream)
        if len(self._brought) > MOST_STREAMS:
            self._brought.popitem(last=False)

    def turn(self, waiter: Waiter, others_wait: bool, now: float) -> None:
        """It leaves the queue for a worker. Between two turns the first one's work gets done."""
        if self._last_turn_s is not None:
            passed_s = now - self._last_turn_s
            kept = math.exp(-passed_s / PACE_S)
            self._passed_s = kept * self._passed_s + passed_s
            self._worked_s = kept * self._worked_s + waiter.work_s
        self._last_turn_s = now if others_wait else None

    def came(self, in_time: bool) -> None:
        """The first token of a request that had been let in, and had a target."""
        self.margin += MARGIN_STEP * (SAFE - 1.0 if in_time else SAFE)
        self.margin = min(MOST_MARGIN, max(LEAST_MARGIN, self.margin))

    def safely(self, predicted_s: float) -> float:
        """No later than that, in most cases."""
        return predicted_s * (1.0 + self.margin)

    def target(self, left_s: float | None) -> float | None:
        """What has to be aimed at, where so much is left."""
        return None if left_s is None else max(1e-3, left_s / (1.0 + self.margin))

    def _others(
        self, queue: FairQueue, waiter: Waiter, turn_s: float, now: float
    ) -> list[tuple[float, float, float]]:
        """Of each stream that may go first: the work that waits here, that comes each second, and
        the most of it that goes first."""
        here = {(lane.priority, lane.tenant): lane.work_s for lane in queue.lanes()}
        found = []
        for stream in here.keys() | self._brought.keys():
            priority, tenant = stream
            if priority > waiter.priority or stream == (waiter.priority, waiter.tenant):
                continue
            urgent = priority < waiter.priority
            most = math.inf if urgent else max(0.0, turn_s - queue.had_s(tenant))
            found.append((here.get(stream, 0.0), self._rate(stream, now), most))
        return found

    def _rate(self, stream: _Stream, now: float) -> float:
        rate, at = self._brought.get(stream, (0.0, now))
        return rate * math.exp(-max(0.0, now - at) / BROUGHT_S)


ROUNDS = 3
"""In which the wait and what comes meanwhile are found from each other."""
