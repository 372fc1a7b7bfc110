"""Rank 0's view of the other ranks: their processes, what they are told, and whether they live."""

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
from worker.ranks.line import LineClosed
from worker.ranks.orders import Answer, Done, Leave, Order, Refused
from worker.ranks.rank_process import STATUS_S, RankProcess
from worker.ranks.supervisor import RankSupervisor

T = TypeVar("T")
LEAVE_S = 10.0
"""How long a rank may take to end in peace."""

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode


class Team:
    """All other ranks of a worker, as children of this process.

    They end when their lines to this process do, however that comes. When one of them ends, or
    stands still for `silence_s`, all are killed at once, for they may wait for it in a collective;
    then `on_lost(error)` is told, in a thread of the team's.
    """

    def __init__(self, size: int, silence_s: float, on_lost: Callable[[RankLost], None]) -> None:
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
        self._watch = RankSupervisor(self._start, silence_s, self._lose_silent)
        self.followers = self._watch.followers
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

    def ready(self) -> None:
        """All ranks can compute now, and whoever stands still is missed."""
        self._watch.tighten()

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
        self._watch.end()
        for follower in self.followers:
            follower.free()

    def _start(self) -> tuple[RankProcess, ...]:
        ranks = range(1, self.size)
        return tuple(
            RankProcess.start(rank, self.size, self._meeting, self._notices) for rank in ranks
        )

    def _listen(self, follower: RankProcess) -> None:
        try:
            follower.caller.listen()
        except Exception:  # what is heard must not fail, and if it does, the worker has
            log.exception("rank %d is not listened to any more", follower.rank)
        self._lose(follower, follower.how_it_ended)
        # Only now is it certain that it reads and writes nothing any more.
        follower.caller.lose(self.lost or RankLost(f"rank {follower.rank} has ended"))

    def _lose_silent(self, follower: RankProcess, silence_s: float) -> None:
        def killed() -> str:
            ended = "was killed" if follower.try_kill() else "cannot be killed"
            return f"has not answered for {silence_s:g} s, and {ended}"

        self._lose(follower, killed)

    def _lose(self, follower: RankProcess, how: Callable[[], str]) -> None:
        with self._lock:
            if self._closing or self.lost is not None:
                return
            self.lost = RankLost(f"rank {follower.rank} (process {follower.pid}) is gone")
        self.lost = lost = self._end_all(follower, how)
        self._told.set()
        log.error("%s", lost)
        self._on_lost(lost)

    def _end_all(self, follower: RankProcess, how: Callable[[], str]) -> RankLost:
        for other in self.followers:
            if other is not follower:
                other.process.kill()
        what = f"rank {follower.rank} of {self.size} (process {follower.pid}) {how()}"
        follower.process.kill()
        return RankLost(what)

    def _answer(self, follower: RankProcess) -> Answer:
        frame = follower.orders.receive()
        if frame is None:
            raise self.why_lost()
        return _decode_answer(frame)

    def _bury(self, follower: RankProcess, patience_s: float) -> None:
        try:
            follower.process.wait(max(0.0, patience_s))
        except subprocess.TimeoutExpired:
            log.info("rank %d has not ended, and is killed", follower.rank)
            if not follower.try_kill():
                log.error("rank %d (process %d) cannot be killed", follower.rank, follower.pid)
        follower.hang_up()
