"""Checksums of KV blocks: blocks that did not arrive as they were sent are not decoded.

A block's checksum depends on its place in the sequence. A handoff's checksum is the sum of those of
its blocks modulo 2^64, so that it can be computed in parts, in any order, on several ranks. When
several ranks fill a block, each with some of its heads, each part of the block has a checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import xxhash

MASK = (1 << 64) - 1


class PendingChecksum(Protocol):
    """A checksum that is being computed beside this thread. The blocks stay as they are until it is
    known."""

    def try_sum(self) -> int | None:
        """The checksum; None while it is computed. Raises the errors of other ranks."""
        ...

    def wait(self) -> int:
        """Wait for the checksum, and for nothing else."""
        ...


Checksum = int | PendingChecksum
"""Known at once where blocks are in host memory, and later where a device reads them."""

ComputeChecksum = Callable[[Sequence[int], int], Checksum]
"""(blocks, first) -> sum of the checksums of blocks[i] of the rank's pool at place first + i."""


def try_sum(checksum: Checksum) -> int | None:
    return checksum if isinstance(checksum, int) else checksum.try_sum()


def wait_for(checksum: Checksum) -> int:
    return checksum if isinstance(checksum, int) else checksum.wait()


def checksum_seed(block: int, heads: range) -> int:
    """The place of a block's part: the block's number in the sequence, and the part's KV heads."""
    return block + (heads.start << 32)


def checksum_host_blocks(
    pool: memoryview, block_bytes: int, blocks: Sequence[int], first: int = 0
) -> int:
    """Sum of XXH3 of blocks in host memory, each seeded with the block's place."""
    total = 0
    for place, block in enumerate(blocks, first):
        start = block * block_bytes
        total += xxhash.xxh3_64_intdigest(pool[start : start + block_bytes], place)
    return total & MASK


def checksum_host_parts(
    pool: memoryview,
    block_bytes: int,
    blocks: Sequence[int],
    first: int,
    spans: Sequence[tuple[int, int]],
) -> int:
    """Sum of XXH3 of parts of blocks: a part is the bytes [start, stop) of all spans, joined."""
    total = 0
    for place, block in enumerate(blocks, first):
        base, hasher = block * block_bytes, xxhash.xxh3_64(seed=place)
        for start, stop in spans:
            hasher.update(pool[base + start : base + stop])
        total += hasher.intdigest()
    return total & MASK
