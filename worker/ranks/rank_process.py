"""One other rank, as rank 0 has it: a process, and three ways to speak with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from worker.ranks.calls import Notices, RankCaller
from worker.ranks.heartbeat import Heartbeat
from worker.ranks.line import Line

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent
STATUS_S = 5.0
"""How long a process that has ended, or was killed, may take until it is told how it ended."""


class RankProcess:
    """Orders are for one thread; calls are for any; its pulse is for the one that watches."""

    def __init__(
        self,
        rank: int,
        process: subprocess.Popen[bytes],
        orders: socket.socket,
        calls: socket.socket,
        pulse: socket.socket,
        notices: Notices,
    ) -> None:
        self.rank = rank
        self.process = process
        self.orders = Line(orders)
        self.calls = Line(calls)
        self.caller = RankCaller(rank, self.calls, notices)
        self.pulse = Heartbeat(pulse)

    @classmethod
    def start(cls, rank: int, size: int, meeting: int, notices: Notices) -> Self:
        """A process that knows nothing yet, and ends with the thread that calls this."""
        (orders, calls, pulse), theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        with contextlib.ExitStack() as until_it_has_them:
            files = [until_it_has_them.enter_context(their).fileno() for their in theirs]
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "worker.ranks",
                    *map(str, (rank, size, *files, meeting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # rank 0's own tells whoever started it that it serves
                pass_fds=[*files, meeting],
                start_new_session=True,  # signals are for rank 0, which ends the others
                env={**os.environ, "PYTHONPATH": _python_path(), "TANDEM_LOG_LEVEL": _log_level()},
            )
        return cls(rank, process, orders, calls, pulse, notices)

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, message: msgspec.Struct, answer: type[T]) -> Future[T]:
        """See Caller.call. From any thread."""
        return self.caller.call(message, answer)

    def tell(self, message: msgspec.Struct) -> None:
        """See Caller.tell. From any thread."""
        self.caller.tell(message)

    def how_it_ended(self) -> str:
        """Of a rank whose lines are closed."""
        try:
            status = self.process.wait(STATUS_S)
        except subprocess.TimeoutExpired:
            return "does not answer any more"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return f"ended: {how}"

    def try_kill(self) -> bool:
        """Also one that stands still; False where it is in a call of the kernel without end."""
        self.process.kill()
        try:
            self.process.wait(STATUS_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def hang_up(self) -> None:
        """Wakes whoever listens to it."""
        self.calls.close()
        self.orders.close()

    def free(self) -> None:
        """When nobody uses it any more."""
        self.orders.free()
        self.calls.free()
        self.pulse.free()


def _log_level() -> str:
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
