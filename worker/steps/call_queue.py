"""Work that other threads want done in the step loop's thread, between two steps."""

from __future__ import annotations

import queue
from collections.abc import Callable

Call = Callable[[Callable[[], None]], None]
"""Hands work to the step loop's thread; thread-safe, never blocks."""


class CallQueue:
    """First come, first served. Any thread may put; the step loop's thread runs.

    A driver without a thread may override `put`, to take a turn of the loop when work has come.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def put(self, work: Callable[[], None]) -> None:
        self._calls.put(work)

    def run_all(self, timeout_s: float = 0.0) -> None:
        """Run what has come, and what comes meanwhile; wait up to `timeout_s` for the first."""
        try:
            work = self._calls.get(timeout=timeout_s) if timeout_s else self._calls.get_nowait()
            while True:
                work()
                work = self._calls.get_nowait()
        except queue.Empty:
            return
