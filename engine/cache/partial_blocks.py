"""Prefix caching below block size: a sequence copies a block whose first tokens it shares."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from engine.cache.block_pool import BlockPool
from engine.sequence import Sequence
from kv_transfer.hashing import tail_hash

MAX_PARTIAL_BLOCKS = 1024
MAX_PER_PREFIX = 8
"""Partial blocks behind one prefix that are remembered, the newest."""

Key = tuple[int, bytes]
"""The prefix before a partial block: number of full blocks, and the last one's hash or the salt."""


class PartialBlocks:
    """Index of the last blocks of sequences that ended; they stay cached until they are evicted.

    Running sequences are not in the index: `try_share` compares them directly.
    """

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self._pool = pool
        self._block_size = block_size
        self._by_prefix: OrderedDict[Key, dict[bytes, list[int]]] = OrderedDict()
        self.num_blocks = 0

    def num_behind(self, sequence: Sequence) -> int:
        """Number of partial blocks known behind the sequence's computed full blocks."""
        return len(
            self._by_prefix.get(_key(sequence, sequence.num_computed // self._block_size), {})
        )

    def keep(self, sequence: Sequence) -> None:
        """Index the last blocks of a sequence that is about to be released.

        A sequence with the same prompt finds the block in which the prompt ends, and one that
        continues the answer finds the block in which the answer ends.
        """
        size, num_published = self._block_size, sequence.num_published
        ends_in = sequence.num_prompt // size
        if sequence.num_prompt % size and ends_in < num_published:
            tokens = sequence.tokens[ends_in * size : (ends_in + 1) * size]
            self._remember(_key(sequence, ends_in), sequence.hashes[ends_in], tokens)
        tokens = sequence.tokens[num_published * size : sequence.num_computed]
        if 0 < len(tokens) < size:
            key = _key(sequence, num_published)
            name = tail_hash(*key, tokens)
            self._pool.publish(sequence.blocks[num_published], name, announced=False)
            self._remember(key, name, tokens)

    def try_share(
        self, sequence: Sequence, others: Iterable[Sequence], min_tokens: int
    ) -> tuple[int, int] | None:
        """A block whose first tokens are the next that the sequence lacks, and how many are.

        The block has one more reference. It shares `min_tokens` tokens or more, and never the last
        known one, whose logits have to be computed.
        """
        begin = sequence.num_computed
        full = begin // self._block_size
        wanted = sequence.tokens[begin : min(begin + self._block_size, len(sequence.tokens) - 1)]
        if len(wanted) < min_tokens:
            return None
        found = self._full_block(sequence, full, wanted) or self._of_ended(
            _key(sequence, full), wanted
        )
        if found is None or found[1] < len(wanted):
            found = _longer(found, _of_running(sequence, others, begin, full, wanted))
        if found is None or found[1] < min_tokens:
            return None
        block, count = found
        self._pool.acquire(block)
        return block, count

    def _full_block(
        self, sequence: Sequence, full: int, wanted: list[int]
    ) -> tuple[int, int] | None:
        """The block in which the prompt ends, if it is cached as a full block."""
        if full >= len(sequence.hashes):
            return None
        block = self._pool.find(sequence.hashes[full])
        return None if block is None else (block, len(wanted))

    def _of_ended(self, key: Key, wanted: list[int]) -> tuple[int, int] | None:
        best = None
        blocks = self._by_prefix.get(key, {})
        for name, tokens in list(blocks.items()):
            block = self._pool.find(name)
            if block is None:
                self._forget(key, name)
            else:
                best = _longer(best, (block, num_common(tokens, wanted)))
        return best

    def _remember(self, key: Key, name: bytes, tokens: list[int]) -> None:
        blocks = self._by_prefix.setdefault(key, {})
        self.num_blocks += name not in blocks
        blocks[name] = tokens
        self._by_prefix.move_to_end(key)
        if len(blocks) > MAX_PER_PREFIX:
            self._forget(key, next(iter(blocks)))
        if self.num_blocks > MAX_PARTIAL_BLOCKS:
            oldest = next(iter(self._by_prefix))
            self._forget(oldest, next(iter(self._by_prefix[oldest])))

    def _forget(self, key: Key, name: bytes) -> None:
        blocks = self._by_prefix[key]
        del blocks[name]
        self.num_blocks -= 1
        if not blocks:
            del self._by_prefix[key]


def num_common(one: Seq[int], other: Seq[int]) -> int:
    """Number of leading tokens that are equal."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _key(sequence: Sequence, full: int) -> Key:
    return full, sequence.hashes[full - 1] if full else sequence.traits.cache_salt


def _longer(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    if one is None or (other is not None and other[1] > one[1]):
        return other
    return one


def _of_running(
    sequence: Sequence, others: Iterable[Sequence], begin: int, full: int, wanted: list[int]
) -> tuple[int, int] | None:
    """The block with the longest shared part, of running sequences with the same prefix."""
    best, key = None, _key(sequence, full)
    for other in others:
        num_known = min(other.num_computed, len(other.tokens))
        if num_known <= begin or other.tokens[begin] != wanted[0]:
            continue
        if full <= len(other.hashes) and _key(other, full) == key:
            tokens = other.tokens[begin : min(num_known, begin + len(wanted))]
            best = _longer(best, (other.blocks[full], num_common(tokens, wanted)))
    return best
