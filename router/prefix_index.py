"""Which worker probably has which blocks, as the workers tell: a wrong hit costs time only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wire.identity import WorkerRef
from wire.messages import CacheEvents


class _Told:
    """What one incarnation has told; `number` is None until its first snapshot."""

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.number: int | None = None
        self.blocks: dict[bytes, None] = {}  # ordered: the oldest is forgotten first


class PrefixIndex:
    """Invariant: a worker's bit is in `_holders[block]` exactly when its `_Told` has the block."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._told: dict[WorkerRef, _Told] = {}
        self._holders: dict[bytes, int] = {}
        self.num_entries = 0

    def add(self, ref: WorkerRef) -> None:
        """Listen to this incarnation; its first snapshot has to be asked for."""
        if ref not in self._told:
            taken = sum(told.bit for told in self._told.values())
            self._told[ref] = _Told(bit=~taken & (taken + 1))

    def apply(self, ref: WorkerRef, events: CacheEvents) -> bool:
        """False when events were missed: ask for a snapshot, once. Strangers are ignored."""
        told = self._told.get(ref)
        if told is None:
            return True
        if events.snapshot:
            self._forget(told, tuple(told.blocks))
        elif told.number is None:
            return True  # the snapshot that was asked for is on its way
        elif events.number != told.number + 1:
            told.number = None
            return False
        told.number = events.number
        self._forget(told, events.removed)
        self._store(told, events.stored)
        return True

    def num_hits(self, hashes: Sequence[bytes]) -> dict[WorkerRef, int]:
        """For each worker that has any, how many leading blocks of `hashes` it has."""
        hits: dict[WorkerRef, int] = {}
        alive = -1
        for depth, block in enumerate(hashes):
            before, alive = alive, alive & self._holders.get(block, 0)
            if depth and alive != before:
                hits.update(dict.fromkeys(self._refs(before & ~alive), depth))
            if not alive:
                return hits
        if hashes:
            hits.update(dict.fromkeys(self._refs(alive), len(hashes)))
        return hits

    def drop(self, ref: WorkerRef) -> None:
        """The incarnation is dead: nothing of it may be found again."""
        told = self._told.get(ref)
        if told is not None:
            self._forget(told, tuple(told.blocks))
            del self._told[ref]

    def check_integrity(self) -> None:
        """Raises AssertionError when the two directions disagree."""
        forward: dict[bytes, int] = {}
        for told in self._told.values():
            for block in told.blocks:
                forward[block] = forward.get(block, 0) | told.bit
        assert forward == self._holders
        num_entries = sum(len(told.blocks) for told in self._told.values())
        assert num_entries == self.num_entries <= self._max_entries

    def _refs(self, mask: int) -> list[WorkerRef]:
        return [ref for ref, told in self._told.items() if told.bit & mask]

    def _store(self, told: _Told, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            if block not in told.blocks:
                told.blocks[block] = None
                self._holders[block] = self._holders.get(block, 0) | told.bit
                self.num_entries += 1
        while self.num_entries > self._max_entries:
            self._forget_oldest()

    def _forget(self, told: _Told, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            if block in told.blocks:
                del told.blocks[block]
                self.num_entries -= 1
                self._holders[block] ^= told.bit
                if not self._holders[block]:
                    del self._holders[block]

    def _forget_oldest(self) -> None:
        """Of the worker that fills the most of the index."""
        fullest = max(self._told.values(), key=lambda told: len(told.blocks))
        self._forget(fullest, [next(iter(fullest.blocks))])
