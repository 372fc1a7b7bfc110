"""Checksums of blocks in device memory: a weighted sum of their words, which a device adds up fast.

A checksum is the sum of the int64 words of blocks, each times an odd weight of its own, mod 2^64.
Odd weights make every single flipped bit change the sum; different ones make swaps change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio, as int64: spreads small numbers
WORD_BYTES = 8
SCRATCH_PART_BYTES = 16 << 20
"""torch's kernels take this much for a copy of blocks, and as much again for their weights."""

AddWords = Callable[[Tensor, Tensor, Tensor], None]
"""(total, words, index): add the weighted words of blocks to `total`, int64 [1]. `words` is int64
[blocks of the memory, words]; `index` is int64 [1 + n]: the place of the first block, and the
numbers of all n. Everything is launched on the current stream, and nothing waits."""


def checksum_kind(device: torch.device) -> str:
    """The kind of checksum on a device: workers of one kind can verify each other's blocks."""
    return "xxh3" if device.type == "cpu" else "weighted-sum"


def index_on(device: torch.device, numbers: Sequence[int]) -> Tensor:
    """Numbers as int64 on a device, copied in the order of the current stream without a wait."""
    index = torch.tensor(numbers, dtype=torch.int64)
    if device.type != "cuda":
        return index.to(device)
    return index.pin_memory().to(device, non_blocking=True)


def add_by_torch(total: Tensor, words: Tensor, index: Tensor) -> None:
    """Implements AddWords in parts; takes twice SCRATCH_PART_BYTES of scratch memory."""
    num_words = words.shape[1]
    most = max(1, SCRATCH_PART_BYTES // (num_words * WORD_BYTES))
    for start in range(0, len(index) - 1, most):
        blocks = index[1 + start : 1 + start + most]
        weights = torch.arange(len(blocks) * num_words, device=words.device)
        weights += (index[:1] + start) * num_words
        weights.mul_(MULTIPLIER).bitwise_or_(1)
        weights.mul_(words.index_select(0, blocks).view(-1))
        total += weights.sum()
        del weights
