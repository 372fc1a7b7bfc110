"""How long a newcomer would wait, with all that is served before it; learned from what came true.

Pure: the caller tells the time.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from router.queueing.fair_queue import FairQueue, Waiter

BROUGHT_S = 10.0
"""Averaging window of the work that a tenant brings, in seconds."""
MOST_STREAMS = 64
"""Maximum number of tenants and priorities whose work is foreseen; the most recent ones."""
PACE_S = 5.0
"""Averaging window of the dequeue rate, in seconds during which the queue was not empty."""
FASTEST, SLOWEST = 4.0, 1 / 8
"""Seconds of predicted work that one worker may get done in a second."""
FEW_TURNS_S = 0.25
"""Weight of the usual dequeue rate beside the measured one, in seconds."""
SAFE = 0.97
"""Share of admitted requests that shall meet their TTFT target."""
LEAST_MARGIN, MOST_MARGIN, MARGIN_STEP = 0.1, 1.0, 0.01
"""Bounds of the safety margin and its step, as parts of a prediction."""

_Stream = tuple[int, str]


class Forecast:
    """Learns what tenants bring, the dequeue rate, and by how much predictions fall short."""

    def __init__(self) -> None:
        self._brought: OrderedDict[_Stream, tuple[float, float]] = OrderedDict()
        self._worked_s = 0.0
        self._passed_s = 0.0
        self._last_turn_s: float | None = None
        self.margin = LEAST_MARGIN

    def wait_s(self, queue: FairQueue, waiter: Waiter, num_workers: int, now: float) -> float:
        """Seconds until its turn. Before it come more urgent classes, nearer deadlines of its
        tenant, and as much work of each other tenant as brings that one to what its own has had by
        then: work that waits here, and work that will arrive meanwhile."""
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
        """Learn the work of a request that was admitted."""
        stream = waiter.priority, waiter.tenant
        rate = self._rate(stream, now) + waiter.work_s / BROUGHT_S
        self._brought[stream] = rate, now
        self._brought.move_to_end(stream)
        if len(self._brought) > MOST_STREAMS:
            self._brought.popitem(last=False)

    def turn(self, waiter: Waiter, others_wait: bool, now: float) -> None:
        """A request leaves the queue for a worker. Between two turns the first one is served."""
        if self._last_turn_s is not None:
            passed_s = now - self._last_turn_s
            kept = math.exp(-passed_s / PACE_S)
            self._passed_s = kept * self._passed_s + passed_s
            self._worked_s = kept * self._worked_s + waiter.work_s
        self._last_turn_s = now if others_wait else None

    def on_first_token(self, in_time: bool) -> None:
        """Learn whether an admitted request met its TTFT target."""
        self.margin += MARGIN_STEP * (SAFE - 1.0 if in_time else SAFE)
        self.margin = min(MOST_MARGIN, max(LEAST_MARGIN, self.margin))

    def safely(self, predicted_s: float) -> float:
        """A duration that is not exceeded in most cases."""
        return predicted_s * (1.0 + self.margin)

    def target(self, left_s: float | None) -> float | None:
        """The target to predict for when `left_s` are left of the client's."""
        return None if left_s is None else max(1e-3, left_s / (1.0 + self.margin))

    def _others(
        self, queue: FairQueue, waiter: Waiter, turn_s: float, now: float
    ) -> list[tuple[float, float, float]]:
        """For each stream that may go first: seconds of work that wait here, that arrive each
        second, and the maximum of it that goes first."""
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
"""Fixed-point iterations: the wait depends on the work that arrives during the wait."""
