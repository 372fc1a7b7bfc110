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
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._prompt: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    @property
    def pending(self) -> bool:
        """Whether a callback waits to be run."""
        return not self._calls.empty()

    def put(self, callback: Callable[[], object]) -> None:
        self._calls.put(callback)

    def put_prompt(self, callback: Callable[[], object]) -> None:
        """Put a callback that may also run within a step: it leaves the engine as it is."""
        self._prompt.put(callback)
        self.put(self.run_prompt)

    def run_prompt(self, timeout_s: float = 0.0) -> bool:
        """Run callbacks that may run within a step; wait up to `timeout_s` for the first one.

        False if there was none.
        """
        calls = _drained(self._prompt, timeout_s)
        for callback in calls:
            callback()
        return bool(calls)

    def run_all(self, timeout_s: float = 0.0) -> None:
        """Run all callbacks, also those put meanwhile; wait up to `timeout_s` for the first one."""
        try:
            callback = self._calls.get(timeout=timeout_s) if timeout_s else self._calls.get_nowait()
            while True:
                callback()
                callback = self._calls.get_nowait()
        except queue.Empty:
            return


def _drained(
    calls: queue.SimpleQueue[Callable[[], object]], timeout_s: float
) -> list[Callable[[], object]]:
    drained = []
    try:
        drained.append(calls.get(timeout=timeout_s) if timeout_s else calls.get_nowait())
        while True:
            drained.append(calls.get_nowait())
    except queue.Empty:
        return drained
