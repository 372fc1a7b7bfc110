"""Virtual time: a clock that goes from event to event."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count


class VirtualClock:
    """`at` and `after` schedule work; `run` goes from event to event. Times are in seconds.

    Work that is scheduled for one time is done in the order in which it was scheduled.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, time_s: float, work: Callable[[], None]) -> None:
        """Do the work at this time, or now if it has passed."""
        heapq.heappush(self._events, (max(time_s, self.now), next(self._order), work))

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        self.at(self.now + seconds, work)

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Do what is scheduled until `goes_on()` is false or nothing more will happen."""
        while self._events and goes_on():
            self.now, _, work = heapq.heappop(self._events)
            work()


@dataclass(slots=True)
class LocalTime:
    """One worker's time, which runs ahead of the cluster's clock within a turn of its step loop.

    A turn is executed as a whole when it begins: its step moves this time on, and messages sent
    after the step leave at this time. A worker takes messages between steps only, so that the
    result is the same. What does not wait for a step's end happens `within_step`.
    """

    now: float = 0.0
    step_end_s: float | None = None
    """End of the step under way, within a step only."""

    @contextmanager
    def within_step(self, now: float) -> Iterator[None]:
        """Go back to the time of a moment within the step that has been executed."""
        end_s, self.now = self.now, now
        self.step_end_s = end_s
        yield
        self.now, self.step_end_s = end_s, None
