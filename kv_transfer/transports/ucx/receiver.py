"""The receive ends of rank pairs over UCX, and the receive thread that serves them.

Only this thread copies into the pool, under a lock: nothing lands through an end that is closed.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import Any

import numpy as np

from kv_transfer.errors import LinkFailed
from kv_transfer.transports.ucx.frames import FRAME_BYTES, BadFrame, Bytes, number_of, unpack
from kv_transfer.transports.ucx.ucx_worker import UcxError, UcxWorker, make_context

log = logging.getLogger(__name__)

GREETING_BYTES = 4096
"""The largest greeting: two bytes of length, and the address for our answers."""

GREETING = -1
"""The number by which a greeting is answered. An answer is int64 [2]: number, refused (0 or 1)."""

NUM_FRAMES = 2
"""Frames of one rank pair that are received at a time."""


class ReceiveThread:
    """The thread that serves all receive ends; its lock guards all that they do."""

    def __init__(self, own_name: str) -> None:
        self._context = make_context()
        self._lock = threading.Lock()
        self._ends: dict[int, ReceiveEnd] = {}
        self._epoll = select.epoll()
        self._stop = os.eventfd(0)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._watch, name=f"ucx {own_name}", daemon=True)
        self._thread.start()

    def open(self, pair: str, token: int, pool: Bytes) -> ReceiveEnd:
        """Raises LinkFailed."""
        with self._lock:
            end = ReceiveEnd(pair, UcxWorker(self._context, token), pool)
            self._ends[end.fd] = end
            while end.turn():  # armed when it returns false: from then on its fd becomes readable
                pass
            self._epoll.register(end.fd, select.EPOLLIN)
        return end

    def shut(self, end: ReceiveEnd) -> None:
        """When it returns, nothing lands through this end any more. Idempotent."""
        with self._lock:
            if self._ends.get(end.fd) is end:
                self._remove(end)

    def close(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._stop)

    def _watch(self) -> None:
        busy: set[int] = set()
        while True:
            ready = {fd for fd, _ in self._epoll.poll(0 if busy else None)}
            if self._stop in ready:
                return
            busy = {fd for fd in busy | ready if self._turn(fd)}

    def _turn(self, fd: int) -> bool:
        with self._lock:
            end = self._ends.get(fd)
            if end is None:
                return False
            try:
                return end.turn()
            except Exception:  # only this rank pair fails, and its peer notices
                log.exception("the receive end of %s is closed", end.pair)
                self._remove(end)
                return False

    def _remove(self, end: ReceiveEnd) -> None:
        del self._ends[end.fd]
        self._epoll.unregister(end.fd)
        end.destroy()


class ReceiveEnd:
    """The end of a rank pair at which frames arrive."""

    def __init__(self, pair: str, worker: UcxWorker, pool: Bytes) -> None:
        self.pair = pair
        self.fd = worker.fd
        self.address = worker.address
        self._worker = worker
        self._pool = pool
        self._answers: list[tuple[Any, Any]] = []
        self._greeting = np.empty(GREETING_BYTES, np.uint8)
        self._greeted = worker.receive(self._greeting, greeting=True)
        self._frames = [np.empty(FRAME_BYTES, np.uint8) for _ in range(NUM_FRAMES)]
        self._arrivals = [worker.receive(frame) for frame in self._frames]

    def turn(self) -> bool:
        """Take what has arrived. Returns False once the fd becomes readable by the next event."""
        self._worker.progress()
        if self._greeted.completed:
            self._take_greeting()
        for number, request in enumerate(self._arrivals):
            if request.completed:
                self._take_frame(request, self._frames[number])
                self._arrivals[number] = self._worker.receive(self._frames[number])
        self._answers = [each for each in self._answers if not each[1].completed]
        # A message that arrived before its receive was posted completes it without an event.
        return self._has_arrivals() or not self._worker.arm()

    def destroy(self) -> None:
        self._worker.hang_up()
        self._arrivals.clear()
        self._answers.clear()
        # The worker goes last, and with it the connection: the peer notices.
        del self._greeted, self._worker

    def _has_arrivals(self) -> bool:
        return self._greeted.completed or any(request.completed for request in self._arrivals)

    def _take_greeting(self) -> None:
        """Connect to the address for answers; a later greeting replaces an earlier one."""
        try:
            self._greeted.check_error()
            length = int.from_bytes(self._greeting[:2].tobytes(), "little")
            self._worker.connect(self._greeting[2 : 2 + length].tobytes())
        except (UcxError, LinkFailed) as error:
            log.warning("greeting of %s dropped: %s", self.pair, error)
        self._greeted = self._worker.receive(self._greeting, greeting=True)
        self._answer(GREETING, refused=False)

    def _take_frame(self, request: Any, frame: Bytes) -> None:
        refused = False
        try:
            request.check_error()
            unpack(frame, self._pool)
        except BadFrame as error:
            log.warning("frame of %s dropped: %s", self.pair, error)
            refused = True
        except UcxError as error:  # the peer died while it was sending
            log.info("frame of %s lost: %s", self.pair, error)
            return
        self._answer(number_of(frame), refused=refused)

    def _answer(self, number: int, *, refused: bool) -> None:
        if not self._worker.alive:
            return
        answer = np.array([number, refused], np.int64)
        try:
            self._answers.append((answer, self._worker.send(answer)))
        except UcxError as error:
            log.info("answer to %s lost: %s", self.pair, error)
