"""The receiving ends of links over UCX, and the thread that watches them.

Only this thread copies into the pool, under a lock: nothing lands through a door that is shut.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import Any

import numpy as np

from kv_transfer.errors import LinkFailed
from kv_transfer.transports.ucx.frames import PARCEL_BYTES, BadFrame, Bytes, number_of, unpack
from kv_transfer.transports.ucx.ucx_worker import UcxError, UcxWorker, make_context

log = logging.getLogger(__name__)

GREETING_BYTES = 4096
"""The largest greeting: two bytes of length, and the address for our answers."""

GREETING = -1
"""The number by which a greeting is answered. An answer is int64 [2]: number, refused (0 or 1)."""

NUM_LANDINGS = 2
"""Parcels of one link that are received at a time."""


class ReceiveThread:
    """The thread that lets peers in, one door each. Its lock covers all that doors do."""

    def __init__(self, own_name: str) -> None:
        self._context = make_context()
        self._lock = threading.Lock()
        self._doors: dict[int, ReceiveEnd] = {}
        self._epoll = select.epoll()
        self._bell = os.eventfd(0)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._thread = threading.Thread(target=self._watch, name=f"ucx {own_name}", daemon=True)
        self._thread.start()

    def open(self, peer: str, token: int, pool: Bytes) -> ReceiveEnd:
        """Raises LinkFailed."""
        with self._lock:
            door = ReceiveEnd(peer, UcxWorker(self._context, token), pool)
            self._doors[door.fd] = door
            while door.turn():  # armed at the end: from now on its fd tells
                pass
            self._epoll.register(door.fd, select.EPOLLIN)
        return door

    def shut(self, door: ReceiveEnd) -> None:
        """When it returns, nothing lands through this door any more. Idempotent."""
        with self._lock:
            if self._doors.get(door.fd) is door:
                self._remove(door)

    def close(self) -> None:
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._bell)

    def _watch(self) -> None:
        busy: set[int] = set()
        while True:
            ready = {fd for fd, _ in self._epoll.poll(0 if busy else None)}
            if self._bell in ready:
                return
            busy = {fd for fd in busy | ready if self._turn(fd)}

    def _turn(self, fd: int) -> bool:
        with self._lock:
            door = self._doors.get(fd)
            if door is None:
                return False
            try:
                return door.turn()
            except Exception:  # one link's end is not the others'; the peer hears of it
                log.exception("the door of %s is closed", door.peer)
                self._remove(door)
                return False

    def _remove(self, door: ReceiveEnd) -> None:
        del self._doors[door.fd]
        self._epoll.unregister(door.fd)
        door.destroy()


class ReceiveEnd:
    """Our end of a link from one peer."""

    def __init__(self, peer: str, worker: UcxWorker, pool: Bytes) -> None:
        self.peer = peer
        self.fd = worker.fd
        self.address = worker.address
        self._worker = worker
        self._pool = pool
        self._answers: list[tuple[Any, Any]] = []
        self._greeting = np.empty(GREETING_BYTES, np.uint8)
        self._greeted = worker.receive(self._greeting, greeting=True)
        self._landings = [np.empty(PARCEL_BYTES, np.uint8) for _ in range(NUM_LANDINGS)]
        self._landed = [worker.receive(landing) for landing in self._landings]

    def turn(self) -> bool:
        """Take what has arrived. Returns False when the door's fd tells of the next event."""
        self._worker.progress()
        if self._greeted.completed:
            self._take_greeting()
        for place, request in enumerate(self._landed):
            if request.completed:
                self._take_parcel(request, self._landings[place])
                self._landed[place] = self._worker.receive(self._landings[place])
        self._answers = [each for each in self._answers if not each[1].completed]
        # What had arrived before it was awaited is complete at once, and there is no event for it.
        return self._has_arrivals() or not self._worker.arm()

    def destroy(self) -> None:
        self._worker.hang_up()
        self._landed.clear()
        self._answers.clear()
        # Last the worker, and with it the connection: the peer notices.
        del self._greeted, self._worker

    def _has_arrivals(self) -> bool:
        return self._greeted.completed or any(request.completed for request in self._landed)

    def _take_greeting(self) -> None:
        """The peer tells where it wants its answers; a later greeting replaces an earlier."""
        try:
            self._greeted.check_error()
            length = int.from_bytes(self._greeting[:2].tobytes(), "little")
            self._worker.connect(self._greeting[2 : 2 + length].tobytes())
        except (UcxError, LinkFailed) as error:
            log.warning("greeting of %s dropped: %s", self.peer, error)
        self._greeted = self._worker.receive(self._greeting, greeting=True)
        self._answer(GREETING, refused=False)

    def _take_parcel(self, request: Any, frame: Bytes) -> None:
        refused = False
        try:
            request.check_error()
            unpack(frame, self._pool)
        except BadFrame as error:
            log.warning("frame of %s dropped: %s", self.peer, error)
            refused = True
        except UcxError as error:  # the peer died while it was sending
            log.info("frame of %s lost: %s", self.peer, error)
            return
        self._answer(number_of(frame), refused=refused)

    def _answer(self, number: int, *, refused: bool) -> None:
        if not self._worker.alive:
            return
        answer = np.array([number, refused], np.int64)
        try:
            self._answers.append((answer, self._worker.send(answer)))
        except UcxError as error:
            log.info("answer to %s lost: %s", self.peer, error)
