"""Which worker probably has which blocks, as the workers tell: a wrong hit costs time only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from wire.identity import WorkerRef
from wire.reports import CacheEvents

EXACT = 16
"""So many leading blocks of a prompt are looked up one by one, the rest by halving."""
STRIDE = 128
MOST_ENDS = 32
"""So many depths of one prompt are exact; the others, which are seldom so many, to STRIDE."""

Counts = npt.NDArray[np.int64]


Lookup = Callable[[bytes], int | None]
Depths = list[tuple[int, int]]


def depths(lookup: Lookup, hashes: Sequence[bytes]) -> Depths:
    """(mask, depth) for each group of workers that have equally many leading blocks.

    `lookup` gives the mask of those who have a block, or None. A worker that has a block has the
    blocks before it too, because caches evict the ends of prefixes first. So a long prompt is
    searched by halving: its last block is looked up, and where a worker's prefix ends earlier, a
    middle one. A missing block between two that a worker has is not noticed.
    """
    found: Depths = []
    alive, depth = -1, 0
    for block in hashes[:EXACT]:
        after = alive & (lookup(block) or 0)
        if after != alive and depth:
            found.append((alive & ~after, depth))
        alive = after
        if not alive:
            return found
        depth += 1
    if depth < len(hashes):
        after = alive & (lookup(hashes[-1]) or 0)
        if after != alive:
            _search(lookup, hashes, (depth, len(hashes)), (alive, after), found)
        alive = after
    if alive > 0:
        found.append((alive, len(hashes)))
    return found


def _search(
    lookup: Lookup,
    hashes: Sequence[bytes],
    span: tuple[int, int],
    masks: tuple[int, int],
    found: Depths,
) -> None:
    """Find the depths between span[0] and span[1] by halving, and append them to `found`.

    All workers of masks[0] have span[0] leading blocks; those of masks[1] have span[1], and are
    left out.
    """
    left = [(*span, *masks)]
    while left:
        low, high, alive, after = left.pop()
        length = high - low
        if length == 1 or (length <= STRIDE and len(found) >= MOST_ENDS):
            found.append((alive & ~after, low))
            continue
        middle = (low + high) // 2
        between = (alive & (lookup(hashes[middle - 1]) or 0)) | after
        if between != after:
            left.append((middle, high, between, after))
        if between != alive:
            left.append((low, middle, alive, between))


class _ReportedBlocks:
    """The blocks reported by one incarnation; `number` is None until its first snapshot."""

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.number: int | None = None
        # For each tier its blocks, ordered: the oldest is forgotten first.
        self.blocks: tuple[dict[bytes, None], ...] = ({}, {})

    @property
    def num_blocks(self) -> int:
        return sum(len(blocks) for blocks in self.blocks)


class PrefixIndex:
    """Two tiers, device and host. Workers are told apart by `row`, a small number of their own."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._told: dict[WorkerRef, _ReportedBlocks] = {}
        # For each tier, who has a block: a worker's bit is set while it has it.
        self._holders: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
        self.num_entries = 0

    def add(self, ref: WorkerRef, row: int) -> None:
        """Listen to this incarnation; its first snapshot has to be asked for."""
        if ref not in self._told:
            self._told[ref] = _ReportedBlocks(bit=1 << row)

    def apply(self, ref: WorkerRef, events: CacheEvents) -> bool:
        """False when events were missed: ask for a snapshot, once. Strangers are ignored."""
        told = self._told.get(ref)
        if told is None:
            return True
        if events.snapshot:
            self._forget_all(told)
        elif told.number is None:
            return True  # the snapshot that was asked for is on its way
        elif events.number != told.number + 1:
            told.number = None
            return False
        told.number = events.number
        for tier, (stored, removed) in enumerate(_changes(events)):
            self._forget(told, tier, removed)
            self._store(told, tier, stored)
        return True

    def num_hits(self, hashes: Sequence[bytes], num_rows: int) -> tuple[Counts, Counts]:
        """By row, how many leading blocks a worker has: on its device, and in either tier."""
        on_device, on_host = self._holders
        device = _spread(depths(on_device.get, hashes), num_rows)
        if not on_host:
            return device, device
        either = depths(lambda block: on_device.get(block, 0) | on_host.get(block, 0), hashes)
        return device, _spread(either, num_rows)

    def drop(self, ref: WorkerRef) -> None:
        """The incarnation is dead: nothing of it may be found again."""
        told = self._told.get(ref)
        if told is not None:
            self._forget_all(told)
            del self._told[ref]

    def check_integrity(self) -> None:
        """Raises AssertionError when the two directions disagree."""
        for number, holders in enumerate(self._holders):
            forward: dict[bytes, int] = {}
            for told in self._told.values():
                for block in told.blocks[number]:
                    forward[block] = forward.get(block, 0) | told.bit
            assert forward == holders
        num_entries = sum(told.num_blocks for told in self._told.values())
        assert num_entries == self.num_entries <= self._max_entries

    def _store(self, told: _ReportedBlocks, tier: int, stored: Iterable[bytes]) -> None:
        blocks, holders = told.blocks[tier], self._holders[tier]
        for block in stored:
            if block not in blocks:
                blocks[block] = None
                others = holders.get(block)
                # Most blocks have one holder: its bit is then one object for all of them.
                holders[block] = told.bit if others is None else others | told.bit
                self.num_entries += 1
        while self.num_entries > self._max_entries:
            self._forget_oldest()

    def _forget(self, told: _ReportedBlocks, tier: int, removed: Iterable[bytes]) -> None:
        blocks, holders = told.blocks[tier], self._holders[tier]
        for block in removed:
            if block in blocks:
                del blocks[block]
                self.num_entries -= 1
                holders[block] ^= told.bit
                if not holders[block]:
                    del holders[block]

    def _forget_all(self, told: _ReportedBlocks) -> None:
        for tier, blocks in enumerate(told.blocks):
            self._forget(told, tier, tuple(blocks))

    def _forget_oldest(self) -> None:
        """Drop the oldest entries of the worker with the most."""
        fullest = max(self._told.values(), key=lambda told: told.num_blocks)
        tier = 0 if fullest.blocks[0] else 1
        num_over = self.num_entries - self._max_entries
        self._forget(fullest, tier, list(islice(fullest.blocks[tier], num_over)))


def _spread(found: Depths, num_rows: int) -> Counts:
    """The number of leading blocks of each row, int64 [num_rows]."""
    hits = np.zeros(num_rows, np.int64)
    num_bytes = -(-num_rows // 8)
    for mask, depth in found:
        if mask & (mask - 1):
            bits = np.frombuffer(mask.to_bytes(num_bytes, "little"), np.uint8)
            rows = np.unpackbits(bits, count=num_rows, bitorder="little").view(np.bool_)
            hits[rows] = depth
        else:
            hits[mask.bit_length() - 1] = depth
    return hits


def _changes(events: CacheEvents) -> tuple[tuple[Sequence[bytes], Sequence[bytes]], ...]:
    """Stored and removed blocks, by tier."""
    return (events.stored, events.removed), (events.host_stored, events.host_removed)
