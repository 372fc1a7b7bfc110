"""A job for another thread, which the caller runs itself if it needs the result before that."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor


class CompileJob:
    """A job with one owner, which alone calls `finish` and `cancel`; others may call the rest."""

    def __init__(self, executor: Executor, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._future = executor.submit(work)

    def finish(self) -> None:
        """Return when the job is done; run it here if no thread has begun it."""
        if self._work is not None and self._future.cancel():
            self._work()
        elif self._work is not None:
            self._future.result()
        self._work = None

    def cancel(self) -> None:
        """Drop a job that nobody needs: unless a thread has begun it, it counts as done."""
        if self._future.cancel():
            self._work = None

    @property
    def done(self) -> bool:
        return self._future.done()

    def wait(self, timeout_s: float) -> None:
        """Block until a thread has done the job. Raises TimeoutError."""
        self._future.result(timeout_s)

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the end, in the thread that did the job."""
        self._future.add_done_callback(lambda future: callback())
