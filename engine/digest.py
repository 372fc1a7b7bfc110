"""Checksums of cache blocks where they lie: on the host by a library, on a device by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.checksum import digest_host_blocks

_MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio, as int64: spreads small numbers
_MASK = (1 << 64) - 1


def digest_kind(device: torch.device) -> str:
    """Two workers can verify each other's blocks when this is equal."""
    return "xxh3" if device.type == "cpu" else "weighted-sum"


def digest_blocks(pool: Tensor, block_bytes: int, blocks: Sequence[int]) -> int:
    """64-bit checksum of these blocks, in this order, of a pool uint8 [num_bytes]."""
    if pool.device.type == "cpu":
        return digest_host_blocks(pool.numpy().data, block_bytes, blocks)
    index = torch.tensor(blocks, device=pool.device)
    words = pool.view(torch.int64).view(-1, block_bytes // 8)[index].flatten()
    return weighted_sum(words)


def weighted_sum(words: Tensor) -> int:
    """Sum of int64 words [n], each times an odd weight of its own, modulo 2^64.

    Odd weights make every single flipped bit change the sum; different ones make swaps change it.
    """
    places = torch.arange(words.numel(), device=words.device)
    weights = (places * _MULTIPLIER) | 1
    return int((words * weights).sum().item()) & _MASK
