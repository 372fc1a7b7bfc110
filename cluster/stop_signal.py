"""The signals that end a cluster: what they do while one loads, starts, runs and drains."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
"""Exit status."""


def on_stop_signals(handler: signal._HANDLER) -> None:
    """Under nohup SIGHUP is ignored, and stays so."""
    for number in STOP_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """While modules are imported, where an exception might be swallowed, or end in a traceback."""
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)


def interrupt(number: int, frame: FrameType | None) -> None:
    """While a cluster starts: what has started is ended."""
    raise KeyboardInterrupt


class StopSignal:
    """An interruption, except while `wait` is awaited, which the first signal then ends."""

    def __init__(self) -> None:
        self._received = threading.Event()
        self._awaited = False
        on_stop_signals(self._receive)

    def wait(self, timeout_s: float) -> bool:
        """True once a signal has come; the next one interrupts the draining."""
        self._awaited = True
        return self._received.wait(timeout_s)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._awaited or self._received.is_set():
            raise KeyboardInterrupt
        self._received.set()
