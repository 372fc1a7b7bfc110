"""The hand-computable runner as kernels on a stream: each layer of a step is one launch."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch

from engine.device.device import LayerEvents
from engine.runner import CacheRegion, Collect, OnLayer, Outcome, Slice
from engine.runners.arithmetic_runner import ArithmeticRunner, _PendingStep, _SliceWork
from engine.runners.results import ByLayers
from kv_transfer.layout.checksum import Checksum
from kv_transfer.layout.checksum_stream import ChecksumStream
from kv_transfer.streams import AccessedBlocks, Event
from tests.order.device import StandInDevice


class StreamRunner(ArithmeticRunner):
    """Launches as TorchRunner does, with its events for layers and its checksums."""

    def __init__(self, device: StandInDevice, stamp: int, **settings: int) -> None:
        super().__init__(stamp=stamp, runs_ahead=True, **settings)
        self.device = device
        self.sums = ChecksumStream(torch.device("cpu"), device.create("checksums"))

    def allocate(self, num_blocks: int) -> CacheRegion:
        self._region = super().allocate(num_blocks)
        self._pool = torch.frombuffer(self._region.keepalive, dtype=torch.uint8)
        return self._region

    def checksum(self, blocks: Seq[int], first: int) -> Checksum:
        return self.sums.of_blocks(self._pool, self.layout.block_bytes, blocks, first)

    def copy_block(self, source: int, target: int) -> None:
        copy = self._cache.__setitem__
        reads, writes = self._blocks([source]), self._blocks([target])
        stream = self.device.steps
        stream.launch(lambda: copy(target, self._cache[source]), [reads], [writes])
        stream.record_event().synchronize()

    def mark(self) -> Event:
        return self.device.steps.record_event()

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        step, events = _PendingStep([_SliceWork.of(it) for it in slices]), None
        if on_layer is not None:
            events = LayerEvents(self.device.steps)
        for layer in range(self.layout.num_layers):
            self._launch_layer(step, layer)
            if events is not None:
                events.record(layer + 1)
        used = [block for work in step.works for block in work.blocks[: self._num_used(work)]]
        self.device.steps.launch(lambda: self._finish(step), [self._blocks(used)])
        over = self.device.steps.record_event()

        def collect() -> list[Outcome]:
            over.synchronize()
            assert step.outcomes is not None
            return step.outcomes

        if events is None or on_layer is None:
            return collect
        events.record_end()
        return ByLayers(events, on_layer, collect)

    def _launch_layer(self, step: _PendingStep, layer: int) -> None:
        size, read, written = self.layout.block_size, list[int](), list[int]()
        for work in step.works:
            begun = work.start // size
            read += work.blocks[:begun]
            written += work.blocks[begun : self._num_used(work)]

        def store() -> None:
            for work in step.works:
                if len(work.tokens) < work.count:
                    work.tokens.append(self._drawn[work.sequence.attempt_id])
                self._store(work, layer)

        reads, writes = self._blocks(read, layer), self._blocks(written, layer)
        self.device.steps.launch(store, [reads], [writes])

    def _finish(self, step: _PendingStep) -> None:
        drawn = [(work, self._draw(work)) for work in step.works]
        self._drawn = {work.sequence.attempt_id: draws[-1].token for work, draws in drawn if draws}
        step.outcomes = [self._outcome(*each) for each in drawn]

    def _num_used(self, work: _SliceWork) -> int:
        return self.layout.num_blocks(work.end)

    def _blocks(self, numbers: Seq[int], layer: int | None = None) -> AccessedBlocks:
        """Whole blocks, or one layer of them."""
        layout, start = self.layout, self._region.address
        if layer is None:
            return AccessedBlocks(start, layout.block_bytes, layout.block_bytes, numbers)
        start += layer * layout.layer_bytes
        return AccessedBlocks(start, layout.block_bytes, layout.layer_bytes, numbers)
