"""The block pool: which blocks are in use, by how many, and which still hold a known prefix."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

MOST_HITS = 16
"""A prefix that was found this often is worth no more than that when it falls out of use."""

Place = tuple[int, int, int]
"""A cached block's in the order of eviction: turnover, order within it, block."""


class BlockPool:
    """Blocks 0 … num_blocks-1; each is in exactly one of three states.

    used    referenced by one or more owners
    cached  free, but its content has a name (a block hash) and is found again
    blank   free, without content that anybody could want

    Cached blocks are evicted by age, and what was found before is younger by as many turnovers of
    the cache as it was found: one long prompt that nobody repeats does not cost a prefix that all
    share. (Greedy-dual with frequencies; Cherkasova, HPL-98-69, 1998)
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_refs = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._blank = list(range(num_blocks))  # a heap: low numbers first, so that runs merge
        self._num_hits = [0] * num_blocks
        self._cached: dict[int, Place] = {}
        self._queue: list[Place] = []  # a heap; some are stale
        self._turnover = 0
        self._order = 0
        self._stored: dict[bytes, None] = {}  # in order; a dict, so that opposites cancel out
        self._removed: dict[bytes, None] = {}
        self._untold: set[bytes] = set()
        self._fallen: list[Place] | None = None
        self.num_found = 0
        """Blocks that spared somebody their computation, ever."""

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
        """How many of the leading hashes are present, without touching them."""
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
        """The block of that name, untouched."""
        return self._block_of.get(name)

    def acquire(self, block: int) -> None:
        """One more reference to a block that is used or cached."""
        self._cached.pop(block, None)
        self._num_refs[block] += 1

    def try_acquire(self, name: bytes) -> int | None:
        """The block of that name, with one more reference; None when there is none."""
        block = self._block_of.get(name)
        if block is not None:
            self.acquire(block)
        return block

    def note_hits(self, blocks: Iterable[int]) -> None:
        """These were acquired, and spared somebody their computation."""
        for block in blocks:
            self._num_hits[block] = min(self._num_hits[block] + 1, MOST_HITS)
            self.num_found += 1

    def publish(
        self, block: int, block_hash: bytes, *, num_hits: int = 0, told: bool = True
    ) -> None:
        """Name the content of a used block. The first block of a name keeps it.

        `num_hits` it had elsewhere. Names that are not `told` are no events: nobody else asks for
        them.
        """
        assert self._num_refs[block] > 0, f"block {block} is free and cannot be published"
        if self._hash_of[block] is None and block_hash not in self._block_of:
            self._hash_of[block] = block_hash
            self._block_of[block_hash] = block
            self._num_hits[block] = num_hits
            if told:
                self._note(block_hash, self._stored, self._removed)
            else:
                self._untold.add(block_hash)

    def release(self, blocks: Iterable[int]) -> None:
        """Drop one reference each. Give them in sequence order: tails are evicted before heads."""
        for block in reversed(list(blocks)):
            assert self._num_refs[block] > 0, f"block {block} was released twice"
            self._num_refs[block] -= 1
            if self._num_refs[block] == 0:
                self._free(block)

    def take_events(self) -> tuple[list[bytes], list[bytes]]:
        """Hashes that came and that went since the last call; what did both is in neither."""
        events = (list(self._stored), list(self._removed))
        self._stored, self._removed = {}, {}
        return events

    def cached_hashes(self) -> list[bytes]:
        """Every block hash that a lookup would find now, and that was told."""
        return [name for name in self._block_of if name not in self._untold]

    def watch(self) -> None:
        """From now on remember what falls out of use, for `take_fallen`."""
        self._fallen = []

    def take_fallen(self) -> list[Place]:
        """Places of the told blocks that fell out of use since the last call; some are stale."""
        if not self._fallen:
            return []
        fallen, self._fallen = self._fallen, []
        return fallen

    def cached_at(self, place: Place) -> tuple[bytes, int] | None:
        """Name and hits of the block that waits there for its eviction; None when stale."""
        block = place[2]
        name = self._hash_of[block]
        if name is None or self._cached.get(block) != place:
            return None
        return name, self._num_hits[block]

    def set_aside(self, place: Place) -> None:
        """One reference to the block that waits there, which is not to make it younger."""
        self.acquire(place[2])

    def put_back(self, place: Place) -> None:
        """Drop that reference: it waits where it was, unless somebody else uses it now."""
        block = place[2]
        self._num_refs[block] -= 1
        if self._num_refs[block] == 0:
            self._cached[block] = place
            heapq.heappush(self._queue, place)

    def used_blocks(self) -> set[int]:
        return {block for block, refs in enumerate(self._num_refs) if refs > 0}

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is lost, counted twice, or named wrongly."""
        blank, cached = set(self._blank), set(self._cached)
        used = self.used_blocks()
        assert len(blank) == len(self._blank), "a block is blank twice"
        assert not (blank & cached | blank & used | cached & used), "a block has two states"
        assert len(blank) + len(cached) + len(used) == self.num_blocks, "a block is lost"
        assert all(self._hash_of[b] is not None for b in cached), "a cached block has no name"
        assert all(self._hash_of[b] is None for b in blank), "a blank block has a name"
        named = {h: b for b, h in enumerate(self._hash_of) if h is not None}
        assert named == self._block_of, "the names and the blocks disagree"
        assert self._untold <= named.keys(), "a name that nobody has is kept from the events"

    def _take_one(self) -> int:
        block = heapq.heappop(self._blank) if self._blank else self._evict()
        self._num_refs[block] = 1
        return block

    def _evict(self) -> int:
        place = heapq.heappop(self._queue)
        while self._cached.get(place[2]) != place:
            place = heapq.heappop(self._queue)
        turnover, _, block = place
        self._turnover = max(self._turnover, turnover)
        del self._cached[block]
        block_hash = self._hash_of[block]
        assert block_hash is not None
        self._hash_of[block] = None
        del self._block_of[block_hash]
        if block_hash in self._untold:
            self._untold.remove(block_hash)
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
            place = (self._turnover + 1 + self._num_hits[block], self._order, block)
            self._cached[block] = place
            heapq.heappush(self._queue, place)
            if self._fallen is not None and name not in self._untold:
                self._fallen.append(place)
            if len(self._queue) > 2 * self.num_blocks:  # most are stale
                self._queue = sorted(self._cached.values())
