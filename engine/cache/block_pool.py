"""The block pool of a paged KV cache, and its prefix cache: reference counts, hashes, eviction."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

MAX_HITS = 16
"""Hits beyond this number do not protect a block from eviction any longer."""

EvictionRank = tuple[int, int, int]
"""A cached block's rank in the order of eviction: turnover, order within it, block."""


class BlockPool:
    """Blocks 0 … num_blocks-1; each is in exactly one of three states.

    used    referenced by one or more owners
    cached  free, but found by the hash of its content until it is evicted
    blank   free, with no content that a hash names

    Cached blocks are evicted in the order in which they were released, but each earlier hit delays
    an eviction by one turnover of the cache: a long prompt that nobody repeats does not evict a
    prefix that all share. (Greedy-dual with frequencies; Cherkasova, HPL-98-69, 1998)
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_refs = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._blank = list(range(num_blocks))  # a heap: low numbers first, so that runs merge
        self._num_hits = [0] * num_blocks
        self._cached: dict[int, EvictionRank] = {}
        self._queue: list[EvictionRank] = []  # a heap; some are stale
        self._turnover = 0
        self._order = 0
        self._stored: dict[bytes, None] = {}  # in order; a dict, so that opposites cancel out
        self._removed: dict[bytes, None] = {}
        self._unannounced: set[bytes] = set()
        self._newly_cached: list[EvictionRank] | None = None
        self.num_found = 0
        """Prefix cache hits so far, in blocks."""

    @property
    def num_free(self) -> int:
        return len(self._blank) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_blank(self) -> int:
        return len(self._blank)

    def try_allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one reference each, blank ones first; None when too few are free."""
        if count > self.num_free:
            return None
        return [self._take_one() for _ in range(count)]

    def match_prefix(self, hashes: Sequence[bytes]) -> int:
        """Number of leading hashes that are present; takes no references."""
        count = 0
        for block_hash in hashes:
            if block_hash not in self._block_of:
                break
            count += 1
        return count

    def acquire_prefix(self, hashes: Sequence[bytes]) -> list[int]:
        """The blocks of the longest present prefix, with one more reference each."""
        blocks = [self._block_of[h] for h in hashes[: self.match_prefix(hashes)]]
        for block in blocks:
            self.acquire(block)
        return blocks

    def find(self, name: bytes) -> int | None:
        """The block with that hash; takes no reference."""
        return self._block_of.get(name)

    def acquire(self, block: int) -> None:
        """One more reference to a block that is used or cached."""
        self._cached.pop(block, None)
        self._num_refs[block] += 1

    def try_acquire(self, name: bytes) -> int | None:
        """The block with that hash, with one more reference; None when there is none."""
        block = self._block_of.get(name)
        if block is not None:
            self.acquire(block)
        return block

    def note_hits(self, blocks: Iterable[int]) -> None:
        """Count a prefix cache hit for each of these blocks, which were acquired before."""
        for block in blocks:
            self._num_hits[block] = min(self._num_hits[block] + 1, MAX_HITS)
            self.num_found += 1

    def publish(
        self, block: int, block_hash: bytes, *, num_hits: int = 0, announced: bool = True
    ) -> None:
        """Enter a used block into the prefix cache. The first block with a hash keeps it.

        `num_hits` are hits that the content had elsewhere. A hash that is not `announced` causes no
        events: it is of no use to routers.
        """
        assert self._num_refs[block] > 0, f"block {block} is free and cannot be published"
        if self._hash_of[block] is None and block_hash not in self._block_of:
            self._hash_of[block] = block_hash
            self._block_of[block_hash] = block
            self._num_hits[block] = num_hits
            if announced:
                self._note(block_hash, self._stored, self._removed)
            else:
                self._unannounced.add(block_hash)

    def release(self, blocks: Iterable[int]) -> None:
        """Drop one reference each. `blocks` come in sequence order: the last is evicted first."""
        for block in reversed(list(blocks)):
            assert self._num_refs[block] > 0, f"block {block} was released twice"
            self._num_refs[block] -= 1
            if self._num_refs[block] == 0:
                self._free(block)

    def take_events(self) -> tuple[list[bytes], list[bytes]]:
        """Hashes stored and removed since the last call; a hash that did both is in neither."""
        events = (list(self._stored), list(self._removed))
        self._stored, self._removed = {}, {}
        return events

    def cached_hashes(self) -> list[bytes]:
        """All announced hashes that a lookup would find now."""
        return [name for name in self._block_of if name not in self._unannounced]

    def track_newly_cached(self) -> None:
        """From now on, record blocks whose last reference is dropped, for `take_newly_cached`."""
        self._newly_cached = []

    def take_newly_cached(self) -> list[EvictionRank]:
        """Ranks of announced blocks that became cached since the last call, some stale."""
        if not self._newly_cached:
            return []
        ranks, self._newly_cached = self._newly_cached, []
        return ranks

    def cached_block(self, rank: EvictionRank) -> tuple[bytes, int] | None:
        """Hash and hits of the cached block with that rank; None when the rank is stale."""
        block = rank[2]
        name = self._hash_of[block]
        if name is None or self._cached.get(block) != rank:
            return None
        return name, self._num_hits[block]

    def set_aside(self, rank: EvictionRank) -> None:
        """Take a reference to a cached block, until `put_back` restores its rank."""
        self.acquire(rank[2])

    def put_back(self, rank: EvictionRank) -> None:
        """Drop the reference of `set_aside`: the block has its rank again, unless it is used."""
        block = rank[2]
        self._num_refs[block] -= 1
        if self._num_refs[block] == 0:
            self._cached[block] = rank
            heapq.heappush(self._queue, rank)

    def used_blocks(self) -> set[int]:
        return {block for block, refs in enumerate(self._num_refs) if refs > 0}

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is lost, counted twice, or named wrongly."""
        blank, cached = set(self._blank), set(self._cached)
        used = self.used_blocks()
        assert len(blank) == len(self._blank), "a block is blank twice"
        assert not (blank & cached | blank & used | cached & used), "a block has two states"
        assert len(blank) + len(cached) + len(used) == self.num_blocks, "a block is lost"
        assert all(self._hash_of[b] is not None for b in cached), "a cached block has no hash"
        assert all(self._hash_of[b] is None for b in blank), "a blank block has a hash"
        named = {h: b for b, h in enumerate(self._hash_of) if h is not None}
        assert named == self._block_of, "the hashes and the blocks disagree"
        assert self._unannounced <= named.keys(), "an unannounced hash is not in the cache"

    def _take_one(self) -> int:
        block = heapq.heappop(self._blank) if self._blank else self._evict()
        self._num_refs[block] = 1
        return block

    def _evict(self) -> int:
        rank = heapq.heappop(self._queue)
        while self._cached.get(rank[2]) != rank:
            rank = heapq.heappop(self._queue)
        turnover, _, block = rank
        self._turnover = max(self._turnover, turnover)
        del self._cached[block]
        block_hash = self._hash_of[block]
        assert block_hash is not None
        self._hash_of[block] = None
        del self._block_of[block_hash]
        if block_hash in self._unannounced:
            self._unannounced.remove(block_hash)
        else:
            self._note(block_hash, self._removed, self._stored)
        return block

    def _note(
        self, block_hash: bytes, noted: dict[bytes, None], opposite: dict[bytes, None]
    ) -> None:
        if block_hash in opposite:
            del opposite[block_hash]
        else:
            noted[block_hash] = None

    def _free(self, block: int) -> None:
        name = self._hash_of[block]
        if name is None:
            heapq.heappush(self._blank, block)
        else:
            self._order += 1
            rank = (self._turnover + 1 + self._num_hits[block], self._order, block)
            self._cached[block] = rank
            heapq.heappush(self._queue, rank)
            if self._newly_cached is not None and name not in self._unannounced:
                self._newly_cached.append(rank)
            if len(self._queue) > 2 * self.num_blocks:  # most are stale
                self._queue = sorted(self._cached.values())
