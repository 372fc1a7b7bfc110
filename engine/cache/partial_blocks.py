"""Last, partly filled blocks: who begins like another inside a block copies it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from engine.cache.block_pool import BlockPool
from engine.sequence import Sequence
from kv_transfer.hashing import tail_hash

MOST_TAILS = 1024
MOST_PER_PREFIX = 8
"""Tails behind the same prefix that are looked at; the newest."""

Key = tuple[int, bytes]
"""What comes before a tail: the number of full blocks and the last one's hash, or the salt."""


class PartialBlocks:
    """Names the tails of sequences that are gone, which stay in the pool until they are evicted.

    Nothing is kept about sequences that run: they are looked at when somebody asks.
    """

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self._pool = pool
        self._block_size = block_size
        self._behind: OrderedDict[Key, dict[bytes, list[int]]] = OrderedDict()
        self.num_tails = 0

    def num_behind(self, sequence: Sequence) -> int:
        """How many tails are known behind the blocks that the sequence has."""
        return len(self._behind.get(_key(sequence, sequence.num_computed // self._block_size), {}))

    def keep(self, sequence: Sequence) -> None:
        """Its blocks are about to be released.

        Who repeats its prompt finds the prompt's end, in a block that its answer has filled since,
        and who goes on from its answer that one's end.
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
            self._pool.publish(sequence.blocks[num_published], name, told=False)
            self._remember(key, name, tokens)

    def try_share(
        self, sequence: Sequence, others: Iterable[Sequence], least: int
    ) -> tuple[int, int] | None:
        """A block to copy for the first tokens that the sequence lacks, and how many it has.

        The block has one more reference. At least `least` tokens, never the last one that is
        known, since what comes after it has to be computed.
        """
        begin = sequence.num_computed
        full = begin // self._block_size
        wanted = sequence.tokens[begin : min(begin + self._block_size, len(sequence.tokens) - 1)]
        if len(wanted) < least:
            return None
        found = self._whole(sequence, full, wanted) or self._kept(_key(sequence, full), wanted)
        if found is None or found[1] < len(wanted):
            found = _longer(found, _running(sequence, others, begin, full, wanted))
        if found is None or found[1] < least:
            return None
        block, count = found
        self._pool.acquire(block)
        return block, count

    def _whole(self, sequence: Sequence, full: int, wanted: list[int]) -> tuple[int, int] | None:
        """The prompt ends with a block that is cached as a whole."""
        if full >= len(sequence.hashes):
            return None
        block = self._pool.find(sequence.hashes[full])
        return None if block is None else (block, len(wanted))

    def _kept(self, key: Key, wanted: list[int]) -> tuple[int, int] | None:
        best = None
        tails = self._behind.get(key, {})
        for name, tokens in list(tails.items()):
            block = self._pool.find(name)
            if block is None:
                self._forget(key, name)
            else:
                best = _longer(best, (block, num_common(tokens, wanted)))
        return best

    def _remember(self, key: Key, name: bytes, tokens: list[int]) -> None:
        tails = self._behind.setdefault(key, {})
        self.num_tails += name not in tails
        tails[name] = tokens
        self._behind.move_to_end(key)
        if len(tails) > MOST_PER_PREFIX:
            self._forget(key, next(iter(tails)))
        if self.num_tails > MOST_TAILS:
            oldest = next(iter(self._behind))
            self._forget(oldest, next(iter(self._behind[oldest])))

    def _forget(self, key: Key, name: bytes) -> None:
        tails = self._behind[key]
        del tails[name]
        self.num_tails -= 1
        if not tails:
            del self._behind[key]


def num_common(one: Seq[int], other: Seq[int]) -> int:
    """How many leading tokens are equal."""
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


def _running(
    sequence: Sequence, others: Iterable[Sequence], begin: int, full: int, wanted: list[int]
) -> tuple[int, int] | None:
    """Of those that begin like the sequence, the block that goes on longest like it."""
    best, key = None, _key(sequence, full)
    for other in others:
        num_known = min(other.num_computed, len(other.tokens))
        if num_known <= begin or other.tokens[begin] != wanted[0]:
            continue
        if full <= len(other.hashes) and _key(other, full) == key:
            tokens = other.tokens[begin : min(num_known, begin + len(wanted))]
            best = _longer(best, (other.blocks[full], num_common(tokens, wanted)))
    return best
