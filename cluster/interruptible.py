"""Calls into libraries that block signal handlers until they return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.2
"""Poll interval of the waiting thread: Python runs signal handlers between two waits."""


def call_interruptibly(work: Callable[[], T]) -> T:
    """Run `work` in a thread; returns its result or raises its error.

    A KeyboardInterrupt in the calling thread takes effect at once and abandons the call. `work`
    must not start processes that die with the thread that created them, as Ray's do.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            done.set_exception(error)

    thread = threading.Thread(target=run, name="interruptible call", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
    return done.result()
