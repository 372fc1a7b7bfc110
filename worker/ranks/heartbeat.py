"""Heartbeats between rank 0 and another rank, over a socket of their own.

A rank answers them in a thread that does nothing else, so that neither a long step nor the loading
of a model holds up the answer: only a process that is stopped gives none.
"""

from __future__ import annotations

import contextlib
import socket

_PING = b"\0"


class Heartbeat:
    """Rank 0's end. It counts turns and not seconds: a rank 0 that was stopped itself has asked
    nobody meanwhile, and must not take that for the silence of another."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._num_missed = 0
        self._ping()

    def missed(self) -> int:
        """Take one turn; returns how many turns have passed without an answer. Never waits."""
        try:
            answered = bool(self._socket.recv(1))
        except OSError:  # no answer; that a process has ended is noticed elsewhere
            answered = False
        if answered:
            self._num_missed = 0
            self._ping()
        else:
            self._num_missed += 1
        return self._num_missed

    def close(self) -> None:
        self._socket.close()

    def _ping(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(_PING)


def answer_heartbeats(end: socket.socket) -> None:
    """The other rank's end; returns when rank 0's is closed."""
    with contextlib.suppress(OSError):
        while ping := end.recv(1):
            end.send(ping)
