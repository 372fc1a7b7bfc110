"""The memory transport as a fabric of its own speed, whose reads and writes are operations."""

from __future__ import annotations

from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.memory import MemoryFabric, MemoryTransfer, MemoryTransport
from tests.order.device import StandInDevice
from tests.order.order import words


class OrderedTransport(MemoryTransport):
    """A transfer knows what its worker knew when it was posted, and nothing of the other worker but
    what the worker was told."""

    def __init__(self, name: str, fabric: MemoryFabric, device: StandInDevice) -> None:
        super().__init__(name, fabric)
        self._device = device

    def write_spans(self, pair: str, spans: Offsets, *, staged: bool) -> MemoryTransfer:
        transfer = super().write_spans(pair, spans, staged=staged)
        theirs, ours = self._remote_pool(pair).pool, self._staging if staged else self._pool
        assert ours is not None
        reads = [
            word for own, _, size in spans.tolist() for word in words(ours.address + own, size)
        ]
        writes = [
            word
            for _, there, size in spans.tolist()
            for word in words(theirs.address + there, size)
        ]
        name = f"{self._device.name}'s transfer"
        clock = self._device.order.begin(name, self._device.clock, reads, writes)
        self._device.trace.append("post")
        return OrderedTransfer(transfer, self._device, clock)  # type: ignore[return-value]


class OrderedTransfer:
    """Over when the schedule lets it be; then its worker knows it."""

    def __init__(self, transfer: MemoryTransfer, device: StandInDevice, clock: int) -> None:
        self._transfer = transfer
        self._device = device
        self._clock = clock

    def done(self) -> bool:
        if self._device.schedule.lags() or not self._transfer.done():
            return False
        self._device.learn(self._clock)
        return True
