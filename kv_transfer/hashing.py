"""Block hashes for prefix caching: all tokens up to a block's end, and its request's salt."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from wire.traits import NO_TRAITS, RequestTraits

HASH_BYTES = 16


def block_hashes(
    tokens: Sequence[int], block_size: int, traits: RequestTraits = NO_TRAITS
) -> list[bytes]:
    """Chained hashes of the full blocks of `tokens`; a partial last block has none.

    Equal hashes mean equal tokens from the start on under the same salt, so that a cached block
    may stand for its whole prefix.
    """
    hashes: list[bytes] = []
    extend_hashes(hashes, tokens, block_size, traits)
    return hashes


def extend_hashes(
    hashes: list[bytes], tokens: Sequence[int], block_size: int, traits: RequestTraits = NO_TRAITS
) -> None:
    """Append the hashes of the blocks that `tokens` fills beyond those already in `hashes`.

    Blocks of a request that does not use the prefix cache have no names.
    """
    if not traits.cache_prompt:
        return
    parent = hashes[-1] if hashes else _root(traits.cache_salt)
    for block in range(len(hashes), len(tokens) // block_size):
        content = array("I", tokens[block * block_size : (block + 1) * block_size]).tobytes()
        parent = hashlib.blake2b(parent + content, digest_size=HASH_BYTES).digest()
        hashes.append(parent)


def tail_hash(num_full: int, before: bytes, tokens: Sequence[int]) -> bytes:
    """Hash of the tokens behind `num_full` full blocks, which do not fill another one.

    `before` is the hash of the last full block, or the salt where there is none.
    """
    content = array("I", tokens).tobytes()
    naming = hashlib.blake2b(before, digest_size=HASH_BYTES, person=b"tandem.tail")
    naming.update(num_full.to_bytes(8, "big") + len(before).to_bytes(8, "big") + content)
    return naming.digest()


def _root(salt: bytes) -> bytes:
    return hashlib.blake2b(salt, digest_size=HASH_BYTES, person=b"tandem.root").digest()
