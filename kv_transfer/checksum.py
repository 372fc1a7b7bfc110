"""Checksums over KV blocks: what arrived is what was sent, or it is not decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xxhash

Digest = Callable[[Sequence[int]], int]
"""Checksum of these blocks of a worker's own pool, in this order; 64 bits, never negative."""


def digest_host_blocks(pool: memoryview, block_bytes: int, blocks: Sequence[int]) -> int:
    """XXH3 over the blocks of a pool in host memory, read where they lie."""
    digest = xxhash.xxh3_64()
    for block in blocks:
        digest.update(pool[block * block_bytes : (block + 1) * block_bytes])
    return digest.intdigest()
