"""The courier: the one thread that drives a transport, because copying may block for long."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kv_transfer.probe import LinkSpeed
from kv_transfer.transport import Transfer, TransferError, Transport

log = logging.getLogger(__name__)
POLL_S = 0.0002
"""Pause between looks at transfers that the fabric carries on its own."""


@dataclass(frozen=True, slots=True)
class WriteJob:
    """`on_done(started, ended, None)` or `on_done(started, ended, cause)` is called, exactly once,
    from the courier's thread; after it nothing of the write is outstanding."""

    peer: str
    blocks: tuple[int, ...]
    pages: tuple[int, ...]
    on_done: Callable[[float, float, str | None], None]


@dataclass(slots=True)
class _Flight:
    job: WriteJob
    transfer: Transfer
    started: float


class Courier:
    """Takes jobs from any thread, in order; writes to different peers overlap.

    At most `max_blocks_in_flight` are under way to one peer, or one write if that is larger: the
    rest waits here, in order, so that one long handoff does not fill the fabric's queues.

    A peer is forgotten only when no write to it is under way: what the fabric still carries must
    be known to have ended before anybody is told so. `on_crash(error)` hears of what nobody
    expected; the thread ends then, and with it the worker should.
    """

    def __init__(
        self,
        transport: Transport,
        on_crash: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        max_blocks_in_flight: int = 1 << 30,
    ) -> None:
        self._transport = transport
        self._on_crash = on_crash
        self._clock = clock
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._max_blocks_in_flight = max_blocks_in_flight
        self._flights: list[_Flight] = []
        self._waiting: list[WriteJob] = []
        self._leaving: set[str] = set()
        self._thread = threading.Thread(target=self._drive, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def connect(
        self,
        peer: str,
        metadata: bytes,
        probe: Callable[[Transport], LinkSpeed],
        on_result: Callable[[LinkSpeed | str], None],
    ) -> None:
        """`on_result(speed)` when connected, `on_result(cause)` when not."""
        self._jobs.put(lambda: on_result(self._connect(peer, metadata, probe)))

    def write(self, job: WriteJob) -> None:
        self._jobs.put(lambda: self._waiting.append(job))

    def disconnect(self, peer: str) -> None:
        self._jobs.put(lambda: self._leaving.add(peer))

    def stop(self) -> None:
        """End the thread and close the transport; writes under way are not waited for."""
        self._jobs.put(None)
        self._thread.join(timeout=10)

    def _drive(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                job()
                self._turn()
            self._transport.close()
        except Exception as error:  # without its courier a worker must not look alive
            log.exception("the courier ended")
            self._on_crash(error)

    def _turn(self) -> None:
        """Post what may go, look at what is under way, and again while that makes room."""
        self._post_waiting()
        num_flights = len(self._flights)
        self._flights = [f for f in self._flights if not self._landed(f)]
        if self._waiting and len(self._flights) < num_flights:
            self._turn()
        self._disconnect_leaving()

    def _post_waiting(self) -> None:
        in_flight: Counter[str] = Counter()
        for flight in self._flights:
            in_flight[flight.job.peer] += len(flight.job.blocks)
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            used = in_flight[job.peer]
            in_flight[job.peer] += len(job.blocks)
            if used and in_flight[job.peer] > self._max_blocks_in_flight:
                self._waiting.append(job)
            else:
                self._post(job)

    def _next_job(self) -> Callable[[], None] | None:
        try:
            return self._jobs.get(timeout=POLL_S if self._flights else None)
        except queue.Empty:
            return _look_again

    def _connect(
        self, peer: str, metadata: bytes, probe: Callable[[Transport], LinkSpeed]
    ) -> LinkSpeed | str:
        self._disconnect_leaving()
        if peer in self._leaving:
            return f"earlier writes to {peer} are still under way"
        try:
            self._transport.connect(peer, metadata)
            return probe(self._transport)
        except TransferError as error:
            self._leaving.add(peer)
            return str(error)

    def _post(self, job: WriteJob) -> None:
        started = self._clock()
        try:
            transfer = self._transport.write(job.peer, job.blocks, job.pages)
        except TransferError as error:
            job.on_done(started, self._clock(), str(error))
        else:
            self._flights.append(_Flight(job, transfer, started))

    def _landed(self, flight: _Flight) -> bool:
        try:
            done = flight.transfer.done()
        except TransferError as error:
            flight.job.on_done(flight.started, self._clock(), str(error))
            return True
        if done:
            flight.job.on_done(flight.started, self._clock(), None)
        return done

    def _disconnect_leaving(self) -> None:
        busy = {job.peer for job in self._waiting} | {f.job.peer for f in self._flights}
        for peer in self._leaving - busy:
            self._transport.disconnect(peer)
        self._leaving &= busy


def _look_again() -> None:
    """Nothing new; the transfers under way are looked at all the same."""
