"""Calls into libraries that hear no signal until they return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
LOOK_EVERY_S = 0.2
"""Python runs signal handlers between two waits."""


def call_interruptibly(work: Callable[[], T]) -> T:
    """What `work` returns or raises, from a thread: a KeyboardInterrupt of this one does not wait
    for it, and leaves it behind.

    `work` must start no process that dies with the thread that made it, as Ray's own do.
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
        thread.join(LOOK_EVERY_S)
    return done.result()
