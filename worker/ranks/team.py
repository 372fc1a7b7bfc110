"""The other ranks of a worker as rank 0 sees them: started, ordered, supervised, ended."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from worker.ranks.errors import RankLost, RankRefused
from worker.ranks.message_socket import SocketClosed
from worker.ranks.orders import Answer, Done, Order, Refused, Shutdown
from worker.ranks.rank_process import STATUS_S, RankProcess
from worker.ranks.supervisor import RankSupervisor

T = TypeVar("T")
SHUTDOWN_TIMEOUT_S = 10.0
"""How long a rank may take to end by itself."""

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode


class Team:
    """All other ranks of a worker, as child processes.

    They end when their sockets to this process are closed, for whatever reason. When one of them
    ends, or is silent for `silence_s`, all are killed at once, since they may wait for it in a
    collective; then `on_lost(error)` is called, in a thread of the team's.
    """

    def __init__(self, size: int, silence_s: float, on_lost: Callable[[RankLost], None]) -> None:
        """Starts the processes, which wait for orders."""
        self.size = size
        self.lost: RankLost | None = None
        self._on_lost = on_lost
        self._on_notice: dict[type[Any], Callable[[int, Any], None]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._lost_known = threading.Event()
        # Never closed: when torch's store is garbage-collected, it looks into its file once more,
        # and waits for one that is not there.
        self._store_fd = os.memfd_create("ranks")
        self._supervisor = RankSupervisor(self._start, silence_s, self._lose_silent)
        self.processes = self._supervisor.processes
        self._receivers = [
            threading.Thread(target=self._receive_from, args=[process], name=f"rank {process.rank}")
            for process in self.processes
        ]
        for receiver in self._receivers:
            receiver.daemon = True
            receiver.start()

    @property
    def store_file(self) -> str:
        """A file that all ranks can open, which exists as long as one of them does."""
        return f"/proc/self/fd/{self._store_fd}"

    def ready(self) -> None:
        """All ranks can compute: from now on one that is silent is missed."""
        self._supervisor.arm()

    def on_notice(self, kind: type[T], callback: Callable[[int, T], None]) -> None:
        """`callback(rank, notice)` is called for each notice of this class; it must not block."""
        self._on_notice[kind] = callback

    def order(self, order: Order) -> None:
        """Send an order to all ranks. Raises RankLost."""
        frame = _encode(order)
        for process in self.processes:
            try:
                process.orders.send(frame)
            except SocketClosed as error:
                raise self.why_lost() from error

    def answers(self) -> list[Done]:
        """The answers of all ranks to the last order. Raises RankLost, and RankRefused."""
        answers = [self._answer(process) for process in self.processes]
        for process, answer in zip(self.processes, answers, strict=True):
            if isinstance(answer, Refused):
                raise RankRefused(f"rank {process.rank}: {answer.why}")
        return [answer for answer in answers if isinstance(answer, Done)]

    def why_lost(self) -> RankLost:
        """The error for a thread that has found a socket closed; waits until it is known."""
        return self.await_lost(2 * STATUS_S) or RankLost("the worker's ranks have ended")

    def await_lost(self, timeout_s: float) -> RankLost | None:
        """The error of the rank that was lost; None if it is not known within this time."""
        return self.lost if self._lost_known.wait(timeout_s) else None

    def close(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """End all ranks: those that do not end by themselves in time are killed. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        for process in self.processes:
            with contextlib.suppress(SocketClosed):
                process.orders.send(_encode(Shutdown()))
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            self._await_end(process, deadline - time.monotonic())
        for receiver in self._receivers:
            receiver.join()
        self._supervisor.end()
        for process in self.processes:
            process.free()

    def _start(self) -> tuple[RankProcess, ...]:
        ranks = range(1, self.size)
        return tuple(
            RankProcess.start(rank, self.size, self._store_fd, self._on_notice) for rank in ranks
        )

    def _receive_from(self, process: RankProcess) -> None:
        try:
            process.client.receive_all()
        except Exception:  # a callback has failed, and so has the worker
            log.exception("rank %d is not received from any more", process.rank)
        self._lose(process, process.how_it_ended)
        # Only now is it certain that the rank reads and writes nothing any more.
        process.client.lose(self.lost or RankLost(f"rank {process.rank} has ended"))

    def _lose_silent(self, process: RankProcess, silence_s: float) -> None:
        def killed() -> str:
            ended = "was killed" if process.try_kill() else "cannot be killed"
            return f"has not answered for {silence_s:g} s, and {ended}"

        self._lose(process, killed)

    def _lose(self, process: RankProcess, how: Callable[[], str]) -> None:
        with self._lock:
            if self._closing or self.lost is not None:
                return
            self.lost = RankLost(f"rank {process.rank} (process {process.pid}) has ended")
        self.lost = lost = self._end_all(process, how)
        self._lost_known.set()
        log.error("%s", lost)
        self._on_lost(lost)

    def _end_all(self, process: RankProcess, how: Callable[[], str]) -> RankLost:
        for other in self.processes:
            if other is not process:
                other.popen.kill()
        what = f"rank {process.rank} of {self.size} (process {process.pid}) {how()}"
        process.popen.kill()
        return RankLost(what)

    def _answer(self, process: RankProcess) -> Answer:
        frame = process.orders.receive()
        if frame is None:
            raise self.why_lost()
        return _decode_answer(frame)

    def _await_end(self, process: RankProcess, timeout_s: float) -> None:
        try:
            process.popen.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            log.info("rank %d has not ended, and is killed", process.rank)
            if not process.try_kill():
                log.error("rank %d (process %d) cannot be killed", process.rank, process.pid)
        process.hang_up()
