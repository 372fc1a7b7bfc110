"""Checksums of pages that several source ranks have filled, each with its own heads."""

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
    pool: CacheRegion, layout: KvLayout, feeds: Sequence[range]
) -> ComputeChecksum:
    """What the sources of these heads have counted together, of blocks of one rank's pool."""
    memory = as_tensor(pool)
    digest_heads = _where_they_lie if memory.device.type == "cpu" else _gathered

    def checksum(blocks: Sequence[int], first: int) -> int:
        parts = [digest_heads(memory, layout, heads, blocks, first) for heads in feeds]
        return sum(parts) & MASK

    return checksum


def _where_they_lie(
    memory: Tensor, layout: KvLayout, heads: range, blocks: Sequence[int], first: int
) -> int:
    """A source has them one behind the other, in the order that they have here."""
    whole = plan(staging_layout(layout, heads), layout, heads)
    rows = whole.spans([0], [0], layout.block_size).tolist()
    spans = [(start, start + num_bytes) for _, start, num_bytes in rows]
    pool, place = memory.numpy().data, checksum_seed(first, heads)
    return checksum_host_parts(pool, layout.block_bytes, blocks, place, spans)


def _gathered(
    memory: Tensor, layout: KvLayout, heads: range, blocks: Sequence[int], first: int
) -> int:
    part, num_blocks = staging_layout(layout, heads), len(blocks)
    made = torch.empty(num_blocks * part.block_bytes, dtype=torch.uint8, device=memory.device)
    with torch.inference_mode():
        if blocks:
            fill(made, memory, layout, part, blocks, num_blocks * layout.block_size)
        return checksum_blocks(
            made, part.block_bytes, range(num_blocks), checksum_seed(first, heads)
        )
