"""Whether another rank lives: asked again and again, beside all that is said to it.

Its answers come from a thread that does nothing else, so neither a long step nor a model that is
read holds them up; only a process that stands still gives none.
"""

from __future__ import annotations

import contextlib
import socket

_WORD = b"\0"


class Heartbeat:
    """Rank 0's end. It counts turns and not time: a rank 0 that stood still itself has asked nobody
    meanwhile, and must not take that for the silence of another."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._num_silent = 0
        self._ask()

    def feel(self) -> int:
        """One turn: for how many it has not answered. Never waits."""
        try:
            answered = bool(self._socket.recv(1))
        except OSError:  # nothing to read, or its process has ended, of which others hear
            answered = False
        if answered:
            self._num_silent = 0
            self._ask()
        else:
            self._num_silent += 1
        return self._num_silent

    def free(self) -> None:
        self._socket.close()

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(_WORD)


def answer(end: socket.socket) -> None:
    """The other rank's end: until rank 0's is closed."""
    with contextlib.suppress(OSError):
        while word := end.recv(1):
            end.send(word)
