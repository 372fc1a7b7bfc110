"""The signals that stop a cluster, and their effect while it loads, starts, runs and drains."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
"""Exit status after an interruption."""


def on_stop_signals(handler: signal._HANDLER) -> None:
    """Install the handler. Under nohup SIGHUP is ignored, and stays so."""
    for number in STOP_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """Exit during imports, where an exception might be swallowed or print a traceback."""
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt a starting cluster, which then ends its processes."""
    raise KeyboardInterrupt


class StopSignal:
    """Raises KeyboardInterrupt for a signal, except for the first one after `wait` was called."""

    def __init__(self) -> None:
        self._received = threading.Event()
        self._awaited = False
        on_stop_signals(self._receive)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the first signal; True once it has come. The next one interrupts draining."""
        self._awaited = True
        return self._received.wait(timeout_s)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._awaited or self._received.is_set():
            raise KeyboardInterrupt
        self._received.set()
