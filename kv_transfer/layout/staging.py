"""Staging memory: blocks are converted there into another layout, and sent from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.layout.convert import can_regroup, regroup, stage
from kv_transfer.layout.device_checksum import checksum_blocks
from kv_transfer.layout.region import CacheRegion
from wire.layout import KvLayout


class Staging:
    """Reads blocks of a pool, and writes them to staging memory in another layout."""

    def __init__(self, pool: CacheRegion, layout: KvLayout, memory: CacheRegion) -> None:
        self._pool = as_tensor(pool)
        self._layout = layout
        self._memory = as_tensor(memory)

    def stage(
        self, blocks: Sequence[int], num_tokens: int, layout: KvLayout, offset: int, first: int
    ) -> int:
        """Implements kv_transfer.endpoints.staged_writes.Stage."""
        with torch.inference_mode():
            num_blocks = layout.num_blocks(num_tokens)
            target = self._memory[offset : offset + num_blocks * layout.block_bytes]
            fill(target, self._pool, self._layout, layout, blocks, num_tokens)
            return checksum_blocks(target, layout.block_bytes, range(num_blocks), first)


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
