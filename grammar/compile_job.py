"""Work that another thread does, unless it is needed before that thread has begun."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor


class CompileJob:
    """Of one owner, who alone calls `finish` and `cancel`. `done` and `wait` are for anybody."""

    def __init__(self, executor: Executor, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._future = executor.submit(work)

    def finish(self) -> None:
        """Return when the work is done; on a busy machine whoever needs it does it sooner."""
        if self._work is not None and self._future.cancel():
            self._work()
        elif self._work is not None:
            self._future.result()
        self._work = None

    def cancel(self) -> None:
        """Nobody needs the work: unless a thread has begun it, it counts as done."""
        if self._future.cancel():
            self._work = None

    @property
    def done(self) -> bool:
        return self._future.done()

    def wait(self, timeout_s: float) -> None:
        """Until its thread has done it."""
        self._future.result(timeout_s)

    def when_done(self, tell: Callable[[], None]) -> None:
        """Call this in the thread that did it."""
        self._future.add_done_callback(lambda future: tell())
