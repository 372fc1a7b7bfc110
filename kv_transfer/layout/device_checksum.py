"""Checksums of cache blocks in device memory by torch, and in host memory by a library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.layout.checksum import MASK, checksum_host_blocks

_MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio, as int64: spreads small numbers


def checksum_kind(device: torch.device) -> str:
    """The kind of checksum on a device: workers of one kind can verify each other's blocks."""
    return "xxh3" if device.type == "cpu" else "weighted-sum"


def checksum_blocks(pool: Tensor, block_bytes: int, blocks: Sequence[int], first: int) -> int:
    """64-bit checksum of blocks of a pool, uint8 [num_bytes]; blocks[0] has the place `first`."""
    if pool.device.type == "cpu":
        return checksum_host_blocks(pool.numpy().data, block_bytes, blocks, first)
    index = torch.tensor(blocks, device=pool.device)
    return weighted_sum(pool.view(torch.int64).view(-1, block_bytes // 8)[index], first)


def weighted_sum(blocks: Tensor, first: int) -> int:
    """Sum of the int64 words of blocks [n, words], each times an odd weight of its own, mod 2^64.

    Odd weights make every single flipped bit change the sum; different ones make swaps change it.
    """
    start = first * blocks.shape[1]
    places = torch.arange(start, start + blocks.numel(), device=blocks.device)
    weights = (places * _MULTIPLIER) | 1
    return int((blocks.flatten() * weights).sum().item()) & MASK
