"""Checksums of blocks that several source ranks have filled, each with some of the KV heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.layout.checksum import MASK, ComputeChecksum, checksum_host_parts, checksum_seed
from kv_transfer.layout.device_checksum import checksum_blocks
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.layout.staging import as_tensor, fill
from wire.layout import KvLayout


def checksum_by_heads(
    pool: CacheRegion, layout: KvLayout, parts: Sequence[range]
) -> ComputeChecksum:
    """Computes the sum that the source ranks compute together, each over its part of the heads."""
    memory = as_tensor(pool)
    checksum_part = _in_place if memory.device.type == "cpu" else _after_gather

    def checksum(blocks: Sequence[int], first: int) -> int:
        return sum(checksum_part(memory, layout, heads, blocks, first) for heads in parts) & MASK

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


def _after_gather(
    memory: Tensor, layout: KvLayout, heads: range, blocks: Sequence[int], first: int
) -> int:
    """Checksums a copy of a part of the blocks, made as the source has made it."""
    part, num_blocks = staging_layout(layout, heads), len(blocks)
    made = torch.empty(num_blocks * part.block_bytes, dtype=torch.uint8, device=memory.device)
    with torch.inference_mode():
        if blocks:
            fill(made, memory, layout, part, blocks, num_blocks * layout.block_size)
        return checksum_blocks(
            made, part.block_bytes, range(num_blocks), checksum_seed(first, heads)
        )
