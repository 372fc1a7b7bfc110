"""The transfer thread: the one thread that drives a transport, because copying may block."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from kv_transfer.endpoints.when_all import when_all
from kv_transfer.endpoints.write_path import OnWritten, RankPath, WritePart, Written
from kv_transfer.endpoints.write_queue import WriteQueue
from kv_transfer.errors import LinkFailed, TransferError
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.transports.probe import LinkProbes, OnSpeeds
from kv_transfer.transports.transport import Transport, traffic_of
from wire.reports import Traffic

log = logging.getLogger(__name__)
POLL_S = 0.0002
"""Pause between looks at transfers that the fabric carries on its own."""


class TransferThread:
    """Takes calls from any thread; writes over different links overlap.

    A link has a path to each rank of the peer that this rank sends to, and every write takes all of
    them. Writes go in parts; see `WriteQueue` for their order and number.

    A link that fails is torn down at once, with all its writes, and `on_link_failed(link, cause)`
    is called before any of them ends. `on_crash(error)` is called with an error that nobody
    expected; the thread ends then, and the worker should end with it.
    """

    def __init__(
        self,
        transport: Transport,
        on_link_failed: Callable[[str, str], None],
        on_crash: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        max_blocks_in_flight: int = 1 << 30,
        bind_thread: Callable[[], None] = lambda: None,
    ) -> None:
        """`bind_thread()` comes first in the thread."""
        self._transport = transport
        self._on_link_failed = on_link_failed
        self._on_crash = on_crash
        self._clock = clock
        self._bind_thread = bind_thread
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._admitted: dict[str, Sequence[str]] = {}
        self._paths: dict[str, Sequence[RankPath]] = {}
        self._probes: dict[str, LinkProbes] = {}
        self._writes = WriteQueue(max_blocks_in_flight)
        self._thread = threading.Thread(target=self._drive, name="transfer thread", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def admit(
        self, link: str, names: Sequence[str], tell: Callable[[tuple[bytes, ...]], None]
    ) -> None:
        """Open the pool to a peer, for rank pairs of these names; `tell` gets their admissions, or
        none where the link has failed."""
        self._calls.put(lambda: self._admit(link, names, tell))

    def evict(self, link: str, then: Callable[[], None]) -> None:
        """Close the pool; `then` is called when nothing sent over the link lands any more."""

        def evict() -> None:
            for name in self._admitted.pop(link, ()):
                self._transport.evict(name)
            then()

        self._calls.put(evict)

    def connect(self, link: str, paths: Sequence[RankPath], on_result: OnSpeeds) -> None:
        """`on_result` gets the speed of each path when all are connected and measured, or why not.

        Writes over the link wait until then.
        """
        self._calls.put(lambda: self._connect(link, paths, on_result))

    def traffic(self, link: str) -> Traffic | None:
        """Traffic over all paths; None where the transport does not count it. Thread-safe."""
        return traffic_of(self._transport, [path.name for path in self._paths.get(link, ())])

    def write(
        self,
        link: str,
        block_write: BlockWrite,
        on_done: OnWritten,
        latest_start: float = 0.0,
    ) -> None:
        """`on_done` is called once, from the thread; then nothing reads the blocks any more.

        Of the writes that wait for one link, the one with the earliest `latest_start` goes first.
        """
        self._calls.put(lambda: self._enqueue(link, block_write, on_done, latest_start))

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        """Give up all writes over a link; `then` is called when they are over."""

        def disconnect() -> None:
            self._tear_down(link, "the session ended")
            then()

        self._calls.put(disconnect)

    def stop(self) -> None:
        """End the thread and close the transport; writes under way are not waited for."""
        self._calls.put(None)
        self._thread.join(timeout=10)

    def turn(self) -> None:
        """All calls, and one look at what is under way: tests drive the thread's turns by hand."""
        while not self._calls.empty():
            call = self._calls.get()
            assert call is not None
            call()
        self._poll()

    def _drive(self) -> None:
        try:
            self._bind_thread()
            while (call := self._next_call()) is not None:
                call()
                self._poll()
            self._transport.close()
        except Exception as error:  # without its transfer thread a worker must not look alive
            log.exception("the transfer thread ended")
            self._on_crash(error)

    def _next_call(self) -> Callable[[], None] | None:
        try:
            return self._calls.get(timeout=POLL_S if self._num_under_way else None)
        except queue.Empty:
            return _look_again

    @property
    def _num_under_way(self) -> int:
        return len(self._writes.in_flight) + len(self._probes)

    def _poll(self) -> None:
        """Post what may go, look at what is under way, and again while that makes room."""
        self._writes.post(self._try_post, self._paths, self._probes)
        num_under_way = self._num_under_way
        for part in list(self._writes.in_flight):
            if part in self._writes.in_flight:  # it may have gone down with another
                self._look(part)
        for probes in list(self._probes.values()):
            self._measure(probes)
        if self._writes.waiting and self._num_under_way < num_under_way:
            self._poll()

    def _admit(
        self, link: str, names: Sequence[str], tell: Callable[[tuple[bytes, ...]], None]
    ) -> None:
        self._admitted[link] = names
        try:
            admissions = tuple(self._transport.admit(name) for name in names)
        except TransferError as error:
            self._fail(link, str(error))
            admissions = ()
        tell(admissions)

    def _connect(self, link: str, paths: Sequence[RankPath], on_result: OnSpeeds) -> None:
        self._paths[link] = paths
        try:
            for path in paths:
                self._transport.connect(path.name, path.admission)
        except TransferError as error:
            self._fail(link, str(error))
            on_result(str(error))
        else:
            started = [path.start_probe(self._transport) for path in paths]
            self._probes[link] = LinkProbes(link, started, on_result)

    def _measure(self, probes: LinkProbes) -> None:
        try:
            speeds = probes.advance()
        except TransferError as error:
            self._fail(probes.link, str(error))
        else:
            if speeds is not None:
                del self._probes[probes.link]
                probes.on_result(speeds)

    def _enqueue(
        self, link: str, block_write: BlockWrite, on_done: OnWritten, latest_start: float
    ) -> None:
        paths = self._paths.get(link)
        if paths is None:
            now = self._clock()
            on_done(Written(now, now, cause=f"{link} is not connected"))
            return

        def all_ended(ends: list[Written]) -> None:
            on_done(Written.together(ends))

        parts = [(path, part) for path in paths for part in path.write_path.split(block_write)]
        self._writes.waiting += [
            WritePart(link, path, part, ended, latest_start)
            for (path, part), ended in zip(parts, when_all(len(parts), all_ended), strict=True)
        ]

    def _try_post(self, part: WritePart) -> bool:
        """False when there is no room yet. A part of a link that is gone has ended already."""
        if part.started is None:
            part.started = self._clock()
        try:
            if part.link not in self._paths:
                raise LinkFailed(f"{part.link} is not connected")
            posted = part.path.write_path.try_post(self._transport, part)
        except TransferError as error:
            self._fail(part.link, str(error))
            part.end(self._clock(), str(error))
            return True
        if posted:
            self._writes.in_flight.append(part)
        return posted

    def _look(self, part: WritePart) -> None:
        try:
            done = part.try_arrive()
        except TransferError as error:
            self._fail(part.link, str(error))
            return
        if done:
            self._writes.in_flight.remove(part)
            part.end(self._clock())

    def _fail(self, link: str, cause: str) -> None:
        self._on_link_failed(link, cause)
        self._tear_down(link, cause)

    def _tear_down(self, link: str, cause: str) -> None:
        """After this, nothing reads the blocks of any write over the link."""
        for path in self._paths.pop(link, ()):
            self._transport.disconnect(path.name)
        given_up = self._probes.pop(link, None)
        for part in self._writes.drop(link):
            part.end(self._clock(), cause)
        if given_up is not None:
            given_up.on_result(cause)


def _look_again() -> None:
    """Nothing new; the transfers under way are looked at all the same."""
