"""Virtual time: what is to happen, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """`after` says what comes; `run` goes from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), work))

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Until it need not, or nothing more will happen."""
        while self._events and goes_on():
            self.now, _, work = heapq.heappop(self._events)
            work()
