"""Checksums on a stream of their own: they wait for no step, and no step waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kv_transfer.cuda_streams import CudaStream
from kv_transfer.layout.add_blocks import add_blocks, adder
from kv_transfer.layout.checksum import MASK
from kv_transfer.layout.device_checksum import WORD_BYTES
from kv_transfer.streams import AccessedBlocks, Event, Stream


class StreamChecksum:
    """Implements `kv_transfer.layout.checksum.PendingChecksum`: a pinned word, and the event behind
    the copy that fills it."""

    def __init__(self, word: Tensor, over: Event) -> None:
        self._word = word
        self._over = over

    def try_sum(self) -> int | None:
        return self._sum if self._over.query() else None

    def wait(self) -> int:
        self._over.synchronize()
        return self._sum

    @property
    def _sum(self) -> int:
        return int(self._word.item()) & MASK


class ChecksumStream:
    """Computes checksums of blocks that are complete: no kernel of another stream is waited for.

    The blocks stay as they are until a sum is known. Thread-safe, as CUDA's streams are.
    """

    def __init__(self, device: torch.device, stream: Stream | None = None) -> None:
        """A new stream of the device where `stream` is None. The first call compiles a kernel, see
        kv_transfer.layout.add_blocks.adder."""
        self._device = device
        self._stream = stream or CudaStream.create(device)
        adder(device)

    def of_blocks(
        self, memory: Tensor, block_bytes: int, blocks: Sequence[int], first: int
    ) -> StreamChecksum:
        """Of blocks of `memory`, uint8 [num_bytes]; blocks[0] has the place `first`."""
        read = accessed(memory, block_bytes, blocks)
        return self.start(
            lambda total: add_blocks(total, memory, block_bytes, blocks, first), reads=[read]
        )

    def start(
        self,
        add: Callable[[Tensor], None],
        reads: Sequence[AccessedBlocks],
        writes: Sequence[AccessedBlocks] = (),
    ) -> StreamChecksum:
        """`add(total)` launches what adds the sum to `total`, int64 [1], and all that comes before;
        for what it reads and writes see kv_transfer.streams.Stream.launch."""
        word = torch.empty(1, dtype=torch.int64, pin_memory=self._device.type == "cuda")

        def work() -> None:
            with torch.inference_mode():
                total = torch.zeros(1, dtype=torch.int64, device=self._device)
                add(total)
                word.copy_(total, non_blocking=True)

        self._stream.launch(work, reads, writes)
        return StreamChecksum(word, self._stream.record_event())


def accessed(memory: Tensor, block_bytes: int, blocks: Sequence[int]) -> AccessedBlocks:
    assert block_bytes % WORD_BYTES == 0, f"blocks of {block_bytes} bytes are not whole words"
    return AccessedBlocks(memory.data_ptr(), block_bytes, block_bytes, blocks)
