"""One worker's end of its links: KV blocks leave at the speed of its network interface."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from kv_transfer.endpoints.endpoint import (
    OnAdmitted,
    OnCrash,
    OnLinkFailed,
    OnSpeed,
    PeerPool,
)
from kv_transfer.endpoints.write_path import OnWritten, Written
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import ComputeChecksum
from kv_transfer.transports.probe import LinkSpeed
from sim.clock import LocalTime, VirtualClock
from sim.machine import MachineModel
from wire.layout import KvLayout
from wire.reports import Traffic


@dataclass(slots=True, order=True, unsafe_hash=True)
class _LeavingWrite:
    latest_start: float
    number: int
    link: str = field(compare=False)
    num_bytes: float = field(compare=False)
    on_done: OnWritten = field(compare=False)
    begun_s: float | None = field(compare=False, default=None)


class VirtualEndpoint:
    """Implements `kv_transfer.endpoints.endpoint.Endpoint`. `on_written()` follows each write.

    The writes over all links leave one after the other, the most urgent first.
    """

    transport_name = "virtual"
    direct_access = False

    def __init__(
        self,
        machine: MachineModel,
        clock: VirtualClock,
        time: LocalTime,
        on_written: Callable[[], None],
    ) -> None:
        self.layout = machine.layout
        self._machine = machine
        self._clock = clock
        self._time = time
        self._on_written = on_written
        self._order = count()
        self._waiting: list[_LeavingWrite] = []
        self._under_way: set[_LeavingWrite] = set()
        self._sending = False
        self._closed: set[str] = set()

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        return

    def admit(self, link: str, source: KvLayout, on_admitted: OnAdmitted) -> None:
        on_admitted(())

    def evict(self, link: str, then: Callable[[], None]) -> None:
        then()

    def connect(self, link: str, peer: PeerPool, on_result: OnSpeed) -> None:
        on_result(LinkSpeed(self._machine.latency_s, self._machine.bytes_per_s))

    def write(
        self,
        link: str,
        block_write: BlockWrite,
        on_done: OnWritten,
        latest_start: float = 0.0,
    ) -> None:
        """It is enqueued at the worker's own time, which may be ahead of the clock. Within a step
        blocks leave as they are computed, layer by layer, so that the last layer is left at its
        end."""
        num_layers = self.layout.num_layers
        first, end = block_write.layers or (0, num_layers)
        num_bytes = block_write.num_tokens * self.layout.token_bytes * (end - first) / num_layers
        write = _LeavingWrite(latest_start, next(self._order), link, num_bytes, on_done)
        begin_s, end_s = self._time.now, self._time.step_end_s
        if end_s is not None:
            ahead_s = num_bytes * (1 - 1 / num_layers) / self._machine.bytes_per_s
            begin_s = max(begin_s, end_s - ahead_s)
        self._clock.at(begin_s, lambda: self._enqueue(write))

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        """Give up all writes over the link, later ones included."""
        self._closed.add(link)
        waiting, self._waiting = self._waiting, []
        lost = [write for write in (*self._under_way, *waiting) if write.link == link]
        self._under_way.difference_update(lost)
        self._waiting = [write for write in waiting if write.link != link]
        heapq.heapify(self._waiting)
        for write in sorted(lost):
            self._end(write, "the session ended")
        then()

    def traffic(self, link: str) -> Traffic | None:
        return None

    def checksum(self, source: KvLayout) -> ComputeChecksum:
        return lambda blocks, first: 0

    def stop(self) -> None:
        return

    def _enqueue(self, write: _LeavingWrite) -> None:
        if write.link in self._closed:
            self._end(write, "the session ended")
            return
        heapq.heappush(self._waiting, write)
        if not self._sending:
            self._send_next()

    def _send_next(self) -> None:
        self._sending = bool(self._waiting)
        if not self._sending:
            return
        write = heapq.heappop(self._waiting)
        write.begun_s = self._clock.now
        self._under_way.add(write)
        seconds = write.num_bytes / self._machine.bytes_per_s
        self._clock.after(seconds, self._send_next)
        self._clock.after(seconds + self._machine.latency_s, lambda: self._arrive(write))

    def _arrive(self, write: _LeavingWrite) -> None:
        if write in self._under_way:
            self._under_way.remove(write)
            self._end(write, None)

    def _end(self, write: _LeavingWrite, cause: str | None) -> None:
        now = self._clock.now
        begun_s = now if write.begun_s is None else write.begun_s
        write.on_done(Written(begun_s, now, cause=cause))
        self._on_written()
