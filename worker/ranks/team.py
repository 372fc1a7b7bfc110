"""Rank 0's view of the other ranks: their processes, what they are told, and whether they live."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from worker.ranks.calls import Caller
from worker.ranks.errors import RankLost, RankRefused
from worker.ranks.line import Line, LineClosed
from worker.ranks.orders import Answer, Done, Leave, Order, Refused

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent
LEAVE_S = 10.0
"""How long a rank may take to end in peace."""
STATUS_S = 5.0
"""How long a process whose lines are closed may take until it is told how it ended."""

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode


class Follower:
    """One other rank. Orders are for one thread; calls are for any."""

    def __init__(
        self,
        rank: int,
        process: subprocess.Popen[bytes],
        orders: socket.socket,
        calls: socket.socket,
        notices: dict[type[Any], Callable[[int, Any], None]],
    ) -> None:
        self.rank = rank
        self.process = process
        self.orders = Line(orders)
        self.calls = Line(calls)
        self.caller = Caller(rank, self.calls, notices)

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
        try:
            status = self.process.wait(STATUS_S)
        except subprocess.TimeoutExpired:
            return "does not answer any more"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return f"ended: {how}"


class Team:
    """All other ranks of a worker, as children of this process.

    They end when their lines to this process do, however that comes. When one of them ends,
    the others are killed at once, for they may wait for it in a collective; then `on_lost(error)`
    is told, in a thread of the team's.
    """

    def __init__(self, size: int, on_lost: Callable[[RankLost], None]) -> None:
        """Starts the processes, which know nothing yet."""
        self.size = size
        self.lost: RankLost | None = None
        self._on_lost = on_lost
        self._notices: dict[type[Any], Callable[[int, Any], None]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._told = threading.Event()
        # Never closed: torch looks into its store once more when that is collected, whenever that
        # is, and waits for a file that is not there.
        self._meeting = os.memfd_create("ranks")
        self.followers = tuple(self._start(rank) for rank in range(1, size))
        self._listeners = [
            threading.Thread(target=self._listen, args=[each], name=f"rank {each.rank}")
            for each in self.followers
        ]
        for listener in self._listeners:
            listener.daemon = True
            listener.start()

    @property
    def meeting_place(self) -> str:
        """A file that all ranks can open, and that is gone when they are."""
        return f"/proc/self/fd/{self._meeting}"

    def on_notice(self, kind: type[T], hear: Callable[[int, T], None]) -> None:
        """`hear(rank, message)` is told what followers say unasked; it must not block."""
        self._notices[kind] = hear

    def order(self, order: Order) -> None:
        """To all. Raises RankLost."""
        frame = _encode(order)
        for follower in self.followers:
            try:
                follower.orders.send(frame)
            except LineClosed as error:
                raise self.why_lost() from error

    def answers(self) -> list[Done]:
        """To the last order, from all. Raises RankLost, or RankRefused for one that could not."""
        answers = [self._answer(follower) for follower in self.followers]
        for follower, answer in zip(self.followers, answers, strict=True):
            if isinstance(answer, Refused):
                raise RankRefused(f"rank {follower.rank}: {answer.why}")
        return [answer for answer in answers if isinstance(answer, Done)]

    def why_lost(self) -> RankLost:
        """For a thread that has noticed that a rank is gone: soon it is known which."""
        return self.await_lost(2 * STATUS_S) or RankLost("the worker's ranks have ended")

    def await_lost(self, timeout_s: float) -> RankLost | None:
        """Which rank was lost, if that is known within this time."""
        return self.lost if self._told.wait(timeout_s) else None

    def close(self, patience_s: float = LEAVE_S) -> None:
        """End them all, in peace where they do within this time. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        for follower in self.followers:
            with contextlib.suppress(LineClosed):
                follower.orders.send(_encode(Leave()))
        deadline = time.monotonic() + patience_s
        for follower in self.followers:
            self._bury(follower, deadline - time.monotonic())
        for listener in self._listeners:
            listener.join()
        for follower in self.followers:
            follower.orders.free()
            follower.calls.free()

    def _start(self, rank: int) -> Follower:
        (orders, their_orders), (calls, their_calls) = socket.socketpair(), socket.socketpair()
        with their_orders, their_calls:
            numbers = [rank, self.size, their_orders.fileno(), their_calls.fileno(), self._meeting]
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.ranks", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # rank 0's own tells whoever started it that it serves
                pass_fds=numbers[2:],
                start_new_session=True,  # signals are for rank 0, which ends the others
                env={**os.environ, "PYTHONPATH": _python_path(), "TANDEM_LOG_LEVEL": _log_level()},
            )
        return Follower(rank, process, orders, calls, self._notices)

    def _listen(self, follower: Follower) -> None:
        try:
            follower.caller.listen()
        except Exception:  # what is heard must not fail, and if it does, the worker has
            log.exception("rank %d is not listened to any more", follower.rank)
        self._lose(follower)

    def _lose(self, follower: Follower) -> None:
        with self._lock:
            first = self.lost is None and not self._closing
            if first:
                self.lost = RankLost(f"rank {follower.rank} (process {follower.pid}) is gone")
        if first:
            self.lost = lost = self._end_the_others(follower)
            self._told.set()
        follower.caller.lose(self.lost or RankLost(f"rank {follower.rank} has ended"))
        if first:
            log.error("%s", lost)
            self._on_lost(lost)

    def _end_the_others(self, follower: Follower) -> RankLost:
        for other in self.followers:
            if other is not follower:
                other.process.kill()
        how = follower.how_it_ended()
        follower.process.kill()
        return RankLost(f"rank {follower.rank} of {self.size} (process {follower.pid}) {how}")

    def _answer(self, follower: Follower) -> Answer:
        frame = follower.orders.receive()
        if frame is None:
            raise self.why_lost()
        return _decode_answer(frame)

    def _bury(self, follower: Follower, patience_s: float) -> None:
        try:
            follower.process.wait(max(0.0, patience_s))
        except subprocess.TimeoutExpired:
            log.info("rank %d has not ended, and is killed", follower.rank)
            follower.process.kill()
            follower.process.wait()
        follower.calls.close()
        follower.orders.close()


def _log_level() -> str:
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
