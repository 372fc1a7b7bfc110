"""The transfer thread: the one thread that drives a transport, because copying may block for
long."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kv_transfer.endpoints.write_path import BlockWrite, Posted, WritePath
from kv_transfer.errors import LinkFailed, TransferError
from kv_transfer.layout.checksum import MASK
from kv_transfer.transports.probe import LinkSpeed, Probe
from kv_transfer.transports.transport import Transport, traffic_of
from wire.reports import Traffic

log = logging.getLogger(__name__)
POLL_S = 0.0002
"""Pause between looks at transfers that the fabric carries on its own."""


@dataclass(frozen=True, slots=True)
class Written:
    """How a write ended, in seconds of the transfer thread's clock. With a `cause` it was given up.

    `checksum` is that of the pages which were filled.
    """

    started: float
    ended: float
    checksum: int = 0
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class RankPath:
    """To one rank of a link's other end, by the name that the transport has for it."""

    name: str
    admission: bytes
    write_path: WritePath
    start_probe: Callable[[Transport], Probe]


@dataclass(frozen=True, slots=True)
class WriteJob:
    """`on_done` is called exactly once, from the transfer thread's thread; then nothing reads the
    blocks.

    Of the jobs that wait for one link, the one with the earliest `latest_start` goes first.
    """

    link: str
    block_write: BlockWrite
    on_done: Callable[[Written], None]
    latest_start: float = 0.0


@dataclass(slots=True, eq=False)
class _JobProgress:
    """Of one job, whose parts end one by one."""

    job: WriteJob
    num_parts: int
    started: float | None = None
    checksum: int = 0
    cause: str | None = None

    def ended(self, now: float, checksum: int, cause: str | None) -> None:
        self.num_parts -= 1
        self.checksum = (self.checksum + checksum) & MASK
        self.cause = self.cause or cause
        if not self.num_parts:
            started = now if self.started is None else self.started
            self.job.on_done(Written(started, now, self.checksum, self.cause))


@dataclass(frozen=True, slots=True, eq=False)
class _PartToWrite:
    progress: _JobProgress
    way: RankPath
    block_write: BlockWrite

    @property
    def link(self) -> str:
        return self.progress.job.link


@dataclass(frozen=True, slots=True, eq=False)
class _PartInFlight:
    part: _PartToWrite
    posted: Posted


OnSpeeds = Callable[[Sequence[LinkSpeed] | str], None]


@dataclass(slots=True, eq=False)
class _Opening:
    """A link whose ways are being measured, all at the same time."""

    link: str
    probes: dict[int, Probe]
    on_result: OnSpeeds
    found: dict[int, LinkSpeed] = field(default_factory=dict)


class TransferThread:
    """Takes jobs from any thread; writes over different links overlap.

    A link has a way to each rank of the peer that this one feeds, and every job takes all of them.
    Jobs go in parts, of which at most `max_blocks_in_flight` blocks are under way over one way, or
    one part: the rest waits here, so that one long handoff does not fill the fabric's queues.

    A link that fails is torn down at once, with all its writes, and `on_link_failed(link, cause)`
    is told before any of them is. `on_crash(error)` hears of what nobody expected; the thread ends
    then, and with it the worker should.
    """

    def __init__(
        self,
        transport: Transport,
        on_link_failed: Callable[[str, str], None],
        on_crash: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        max_blocks_in_flight: int = 1 << 30,
    ) -> None:
        self._transport = transport
        self._on_link_failed = on_link_failed
        self._on_crash = on_crash
        self._clock = clock
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._max_blocks_in_flight = max_blocks_in_flight
        self._openings: list[_Opening] = []
        self._admitted: dict[str, Sequence[str]] = {}
        self._ways: dict[str, Sequence[RankPath]] = {}
        self._waiting: list[_PartToWrite] = []
        self._flights: list[_PartInFlight] = []
        self._thread = threading.Thread(target=self._drive, name="transfer thread", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def admit(
        self, link: str, names: Sequence[str], tell: Callable[[tuple[bytes, ...]], None]
    ) -> None:
        """Open the pool to whoever calls over these parts of a link; one admission for each."""

        def admit() -> None:
            self._admitted[link] = names
            tell(tuple(self._transport.admit(name) for name in names))

        self._jobs.put(admit)

    def evict(self, link: str, then: Callable[[], None]) -> None:
        """Close the pool; `then` is called when nothing sent over the link lands any more."""

        def evict() -> None:
            for name in self._admitted.pop(link, ()):
                self._transport.evict(name)
            then()

        self._jobs.put(evict)

    def connect(self, link: str, ways: Sequence[RankPath], on_result: OnSpeeds) -> None:
        """`on_result(speeds)`, one a way, when connected and measured, `on_result(cause)` else."""
        self._jobs.put(lambda: self._connect(link, ways, on_result))

    def traffic(self, link: str) -> Traffic | None:
        """Over all ways; None where the transport does not count it. Safe from any thread."""
        return traffic_of(self._transport, [way.name for way in self._ways.get(link, ())])

    def write(self, job: WriteJob) -> None:
        self._jobs.put(lambda: self._enqueue(job))

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        """Give up all writes over a link; `then` is called when they are over."""

        def disconnect() -> None:
            self._tear_down(link, "the session ended")
            then()

        self._jobs.put(disconnect)

    def stop(self) -> None:
        """End the thread and close the transport; writes under way are not waited for."""
        self._jobs.put(None)
        self._thread.join(timeout=10)

    def turn(self) -> None:
        """One turn of the thread, for those who drive a transfer thread by hand: all jobs, one
        look."""
        while not self._jobs.empty():
            job = self._jobs.get()
            assert job is not None
            job()
        self._look_around()

    def _drive(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                job()
                self._look_around()
            self._transport.close()
        except Exception as error:  # without its transfer thread a worker must not look alive
            log.exception("the transfer thread ended")
            self._on_crash(error)

    def _look_around(self) -> None:
        """Post what may go, look at what is under way, and again while that makes room."""
        self._post_waiting()
        num_under_way = len(self._flights) + len(self._openings)
        for flight in list(self._flights):
            if flight in self._flights:  # it may have gone down with another
                self._look(flight)
        for opening in list(self._openings):
            self._measure(opening)
        if self._waiting and len(self._flights) + len(self._openings) < num_under_way:
            self._look_around()

    def _post_waiting(self) -> None:
        """Least laxity first. (Dertouzos and Mok, IEEE TSE 15(12), 1989)"""
        in_flight: Counter[str] = Counter()
        for flight in self._flights:
            in_flight[flight.part.way.name] += len(flight.part.block_write.blocks)
        waiting, self._waiting = self._waiting, []
        opening = {opening.link for opening in self._openings}
        for part in sorted(waiting, key=lambda part: part.progress.job.latest_start):
            used = in_flight[part.way.name]
            in_flight[part.way.name] += len(part.block_write.blocks)
            full = used and in_flight[part.way.name] > self._max_blocks_in_flight
            waits = part.link in self._ways and (full or part.link in opening)
            if waits or not self._try_post(part):
                self._waiting.append(part)

    def _next_job(self) -> Callable[[], None] | None:
        try:
            return self._jobs.get(timeout=POLL_S if self._flights or self._openings else None)
        except queue.Empty:
            return _look_again

    def _connect(self, link: str, ways: Sequence[RankPath], on_result: OnSpeeds) -> None:
        self._ways[link] = ways
        try:
            for way in ways:
                self._transport.connect(way.name, way.admission)
        except TransferError as error:
            self._fail(link, str(error))
            on_result(str(error))
        else:
            probes = {n: way.start_probe(self._transport) for n, way in enumerate(ways)}
            self._openings.append(_Opening(link, probes, on_result))

    def _measure(self, opening: _Opening) -> None:
        """A probe is a generator, so that a slow link does not hold up the others."""
        for number, probe in list(opening.probes.items()):
            try:
                next(probe)
            except StopIteration as end:
                del opening.probes[number]
                opening.found[number] = end.value
            except TransferError as error:
                self._fail(opening.link, str(error))
                return
        if not opening.probes:
            self._openings.remove(opening)
            opening.on_result([speed for _, speed in sorted(opening.found.items())])

    def _enqueue(self, job: WriteJob) -> None:
        ways = self._ways.get(job.link)
        if ways is None:
            now = self._clock()
            job.on_done(Written(now, now, cause=f"{job.link} is not connected"))
            return
        parts = [
            (way, block_write)
            for way in ways
            for block_write in way.write_path.parts(job.block_write)
        ]
        progress = _JobProgress(job, len(parts))
        self._waiting += [_PartToWrite(progress, way, block_write) for way, block_write in parts]

    def _try_post(self, part: _PartToWrite) -> bool:
        """False when there is no room yet. A part of a link that is gone has ended already."""
        way = part.way
        if part.progress.started is None:
            part.progress.started = self._clock()
        try:
            if part.link not in self._ways:
                raise LinkFailed(f"{part.link} is not connected")
            posted = way.write_path.try_post(self._transport, way.name, part.block_write)
        except TransferError as error:
            self._fail(part.link, str(error))
            part.progress.ended(self._clock(), 0, str(error))
            return True
        if posted is not None:
            self._flights.append(_PartInFlight(part, posted))
        return posted is not None

    def _look(self, flight: _PartInFlight) -> None:
        try:
            done = flight.posted.transfer.done()
        except TransferError as error:
            self._fail(flight.part.link, str(error))
            return
        if done:
            self._flights.remove(flight)
            flight.posted.release()
            flight.part.progress.ended(self._clock(), flight.posted.checksum, None)

    def _fail(self, link: str, cause: str) -> None:
        self._on_link_failed(link, cause)
        self._tear_down(link, cause)

    def _tear_down(self, link: str, cause: str) -> None:
        """After this, nothing reads the blocks of any write over the link."""
        for way in self._ways.pop(link, ()):
            self._transport.disconnect(way.name)
        given_up = [opening for opening in self._openings if opening.link == link]
        self._openings = [opening for opening in self._openings if opening.link != link]
        lost = [flight for flight in self._flights if flight.part.link == link]
        unsent = [part for part in self._waiting if part.link == link]
        self._flights = [flight for flight in self._flights if flight.part.link != link]
        self._waiting = [part for part in self._waiting if part.link != link]
        for flight in lost:
            flight.posted.release()
        for part in [*(flight.part for flight in lost), *unsent]:
            part.progress.ended(self._clock(), 0, cause)
        for opening in given_up:
            opening.on_result(cause)


def _look_again() -> None:
    """Nothing new; the transfers under way are looked at all the same."""
