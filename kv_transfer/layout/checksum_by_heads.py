"""Checksums of blocks that several source ranks have filled, each with some of the KV heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.layout.add_blocks import add_blocks
from kv_transfer.layout.checksum import (
    MASK,
    Checksum,
    ComputeChecksum,
    checksum_host_parts,
    checksum_seed,
)
from kv_transfer.layout.checksum_stream import ChecksumStream, accessed
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.layout.staging import as_tensor, fill
from wire.layout import KvLayout

GATHERED_BYTES = 4 << 20
"""Most bytes of blocks that are gathered at once; their conversion takes several times as much."""


def checksum_by_heads(
    pool: CacheRegion,
    layout: KvLayout,
    parts: Sequence[range],
    sums: ChecksumStream | None = None,
) -> ComputeChecksum:
    """Computes the sum that the source ranks compute together, each over its part of the heads.

    On a device `sums` is given, which computes it.
    """
    memory = as_tensor(pool)

    def checksum(blocks: Sequence[int], first: int) -> Checksum:
        if sums is None:
            return sum(_in_place(memory, layout, heads, blocks, first) for heads in parts) & MASK

        def add(total: Tensor) -> None:
            for heads in parts:
                _add_gathered(total, memory, layout, heads, blocks, first)

        return sums.start(add, [accessed(memory, layout.block_bytes, blocks)])

    return checksum


def _in_place(
    memory: Tensor, layout: KvLayout, heads: range, blocks: Sequence[int], first: int
) -> int:
    """Checksums a part's bytes where they are: a source has them joined, in the same order."""
    whole = plan(staging_layout(layout, heads), layout, heads)
    rows = whole.spans([0], [0], layout.block_size).tolist()
    spans = [(start, start + num_bytes) for _, start, num_bytes in rows]
    pool, place = memory.numpy().data, checksum_seed(first, heads)
    return checksum_host_parts(pool, layout.block_bytes, blocks, place, spans)


def _add_gathered(
    total: Tensor,
    memory: Tensor,
    layout: KvLayout,
    heads: range,
    blocks: Sequence[int],
    first: int,
) -> None:
    """Adds the checksum of copies of a part of the blocks, made as the source has made them."""
    part, size = staging_layout(layout, heads), layout.block_size
    most = max(1, GATHERED_BYTES // part.block_bytes)
    for start in range(0, len(blocks), most):
        some = blocks[start : start + most]
        made = torch.empty(len(some) * part.block_bytes, dtype=torch.uint8, device=memory.device)
        fill(made, memory, layout, part, some, len(some) * size)
        place = checksum_seed(first + start, heads)
        add_blocks(total, made, part.block_bytes, range(len(some)), place)
