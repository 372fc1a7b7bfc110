"""Checksums over KV blocks: what arrived is what was sent, or it is not decoded.

Each block has its own, which depends on the block's place in the sequence, and a handoff's checksum
is their sum modulo 2^64: so it can be computed in parts, by whoever touches a block anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xxhash

MASK = (1 << 64) - 1

Digest = Callable[[Sequence[int], int], int]
"""(blocks, first) -> sum of the checksums of blocks[i] of one's own pool at place first + i."""


def digest_host_blocks(
    pool: memoryview, block_bytes: int, blocks: Sequence[int], first: int = 0
) -> int:
    """Sum of XXH3, seeded with the block's place, of blocks read where they lie in host memory."""
    total = 0
    for place, block in enumerate(blocks, first):
        start = block * block_bytes
        total += xxhash.xxh3_64_intdigest(pool[start : start + block_bytes], place)
    return total & MASK
