"""Another rank as rank 0 sees it: a process, and three sockets to it."""

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

from worker.ranks.calls import CallClient, OnNotice
from worker.ranks.heartbeat import Heartbeat
from worker.ranks.message_socket import MessageSocket

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent
STATUS_S = 5.0
"""How long the exit status of a process that has ended, or was killed, may take."""


class RankProcess:
    """Another rank of this worker, as rank 0 sees it: its process and the sockets to it.

    One thread sends orders, any thread calls, the supervisor's thread receives heartbeats.
    """

    def __init__(
        self,
        rank: int,
        popen: subprocess.Popen[bytes],
        orders: socket.socket,
        calls: socket.socket,
        heartbeats: socket.socket,
        on_notice: OnNotice,
    ) -> None:
        self.rank = rank
        self.popen = popen
        self.orders = MessageSocket(orders)
        self.calls = MessageSocket(calls)
        self.client = CallClient(rank, self.calls, on_notice)
        self.heartbeat = Heartbeat(heartbeats)

    @classmethod
    def start(cls, rank: int, size: int, store: int, on_notice: OnNotice) -> Self:
        """Start a process that ends with the calling thread; it waits for orders."""
        (orders, calls, heartbeats), theirs = zip(
            *(socket.socketpair() for _ in range(3)), strict=True
        )
        with contextlib.ExitStack() as until_inherited:
            files = [until_inherited.enter_context(their).fileno() for their in theirs]
            popen = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "worker.ranks",
                    *map(str, (rank, size, *files, store)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # rank 0 says there that it serves
                pass_fds=[*files, store],
                start_new_session=True,  # signals are for rank 0, which ends the others
                env={**os.environ, "PYTHONPATH": _python_path(), "TANDEM_LOG_LEVEL": _log_level()},
            )
        return cls(rank, popen, orders, calls, heartbeats, on_notice)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def call(self, message: msgspec.Struct, answer: type[T]) -> Future[T]:
        """See CallClient.call. Thread-safe."""
        return self.client.call(message, answer)

    def how_it_ended(self) -> str:
        """How a process ended whose sockets are closed."""
        try:
            status = self.popen.wait(STATUS_S)
        except subprocess.TimeoutExpired:
            return "does not answer any more"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return f"ended: {how}"

    def try_kill(self) -> bool:
        """Kill the process, stopped or not; False while a system call keeps it from ending."""
        self.popen.kill()
        try:
            self.popen.wait(STATUS_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def hang_up(self) -> None:
        """Close the connections, which wakes the threads that receive from them."""
        self.calls.close()
        self.orders.close()

    def free(self) -> None:
        """Close the file descriptors, when no thread uses them any more."""
        self.orders.free()
        self.calls.free()
        self.heartbeat.close()


def _log_level() -> str:
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
