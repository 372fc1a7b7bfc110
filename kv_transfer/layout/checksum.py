"""Checksums over KV blocks: what arrived is what was sent, or it is not decoded.

Each block has its own, which depends on the block's place in the sequence, and a handoff's checksum
is their sum modulo 2^64: so it can be computed in parts, by whoever touches a block anyway. Where
several ranks fill a block, each with some of its heads, every part of the block counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xxhash

MASK = (1 << 64) - 1

ComputeChecksum = Callable[[Sequence[int], int], int]
"""(blocks, first) -> sum of the checksums of blocks[i] of one's own pool at place first + i."""


def checksum_seed(block: int, heads: range) -> int:
    """The place of a part of a sequence's block that holds these of the model's KV heads."""
    return block + (heads.start << 32)


def checksum_host_blocks(
    pool: memoryview, block_bytes: int, blocks: Sequence[int], first: int = 0
) -> int:
    """Sum of XXH3, seeded with the block's place, of blocks read where they lie in host memory."""
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
    """The same of parts of blocks, as if the bytes from start to stop of each span were joined."""
    total = 0
    for place, block in enumerate(blocks, first):
        base, hasher = block * block_bytes, xxhash.xxh3_64(seed=place)
        for start, stop in spans:
            hasher.update(pool[base + start : base + stop])
        total += hasher.intdigest()
    return total & MASK
