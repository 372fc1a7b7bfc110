"""Callbacks for the step loop's thread, put by other threads and run between two steps."""

from __future__ import annotations

import queue
from collections.abc import Callable

Call = Callable[[Callable[[], None]], None]
"""Queues a callback for the step loop's thread; thread-safe, never blocks."""


class CallQueue:
    """First in, first out. Any thread may put; the step loop's thread runs.

    A driver without a thread may override `put` to learn that the loop needs a turn.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def put(self, callback: Callable[[], None]) -> None:
        self._calls.put(callback)

    def run_all(self, timeout_s: float = 0.0) -> None:
        """Run all callbacks, also those put meanwhile; wait up to `timeout_s` for the first one."""
        try:
            callback = self._calls.get(timeout=timeout_s) if timeout_s else self._calls.get_nowait()
            while True:
                callback()
                callback = self._calls.get_nowait()
        except queue.Empty:
            return
