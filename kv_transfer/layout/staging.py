"""Staging memory: blocks are converted there into another layout, and sent from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.layout.add_blocks import add_blocks
from kv_transfer.layout.checksum import Checksum, checksum_host_blocks
from kv_transfer.layout.checksum_stream import ChecksumStream, accessed
from kv_transfer.layout.convert import can_regroup, regroup, stage
from kv_transfer.layout.region import CacheRegion
from wire.layout import KvLayout


class Staging:
    """Reads blocks of a pool, and writes them to staging memory in another layout."""

    def __init__(
        self,
        pool: CacheRegion,
        layout: KvLayout,
        memory: CacheRegion,
        sums: ChecksumStream | None = None,
    ) -> None:
        """On a device `sums` is given, whose stream fills staging memory, too."""
        self._pool = as_tensor(pool)
        self._layout = layout
        self._memory = as_tensor(memory)
        self._sums = sums

    def stage(
        self, blocks: Sequence[int], num_tokens: int, layout: KvLayout, offset: int, first: int
    ) -> Checksum:
        """Implements kv_transfer.endpoints.staged_writes.Stage."""
        made, size = range(layout.num_blocks(num_tokens)), layout.block_bytes
        target = self._memory[offset : offset + len(made) * size]

        def add(total: Tensor) -> None:
            fill(target, self._pool, self._layout, layout, blocks, num_tokens)
            add_blocks(total, target, size, made, first)

        if self._sums is not None:
            read = accessed(self._pool, self._layout.block_bytes, blocks)
            return self._sums.start(add, [read], [accessed(target, size, made)])
        with torch.inference_mode():
            fill(target, self._pool, self._layout, layout, blocks, num_tokens)
            return checksum_host_blocks(target.numpy().data, size, made, first)


def fill(
    target: Tensor,
    pool: Tensor,
    layout: KvLayout,
    wanted: KvLayout,
    blocks: Sequence[int],
    num_tokens: int,
) -> None:
    """Write the first `num_tokens` tokens of these blocks of `pool` to `target`, in layout
    `wanted`."""
    if can_regroup(layout, wanted):
        regroup(pool, layout, wanted, blocks, num_tokens, target)
    else:
        target.copy_(stage(pool, layout, wanted, blocks, num_tokens))


def as_tensor(region: CacheRegion) -> Tensor:
    """A region's memory, uint8 [num_bytes]."""
    if isinstance(region.keepalive, Tensor):
        return region.keepalive
    return torch.frombuffer(region.keepalive, dtype=torch.uint8)
