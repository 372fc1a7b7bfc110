"""Which blocks are saved to host memory before the cache evicts them; pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from engine.cache.block_pool import BlockPool, Place

MOST_SAVING = 32
"""Blocks that are set aside at a time, if that is not more than an eighth of the cache."""
ROOMY = 2
"""While more than one in so many blocks of the cache are blank, none is about to be evicted."""


@dataclass(frozen=True, slots=True)
class PendingSave:
    """Cache blocks that are set aside, and for each of them a host block and what it is called."""

    places: list[Place] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    names: list[tuple[bytes, int]] = field(default_factory=list)
    """With the hits that a block has had."""

    @property
    def blocks(self) -> list[int]:
        return [place[2] for place in self.places]


class Offload:
    """Watches what falls out of use in the cache."""

    def __init__(self, cache: BlockPool, host: BlockPool) -> None:
        self._cache = cache
        self._host = host
        self._most = max(1, min(MOST_SAVING, cache.num_blocks // 8))
        self._unsaved: list[Place] = []  # a heap; some are stale
        self.num_aside = 0
        """Blocks of the cache that wait for a copy to be made."""
        cache.watch()

    def try_begin(self) -> PendingSave | None:
        """Set aside the blocks to be evicted next that are not in host memory yet."""
        for place in self._cache.take_fallen():
            heapq.heappush(self._unsaved, place)
        self._forget_stale()
        if not self._unsaved or self._cache.num_blank * ROOMY >= self._cache.num_blocks:
            return None
        save = self._choose(self._most - self.num_aside)
        self.num_aside += len(save.places)
        return save if save.places else None

    def end(self, save: PendingSave) -> None:
        """The copy is made: the blocks wait for their eviction where they were."""
        for slot, (name, num_hits) in zip(save.slots, save.names, strict=True):
            self._host.publish(slot, name, num_hits=num_hits)
        self._host.release(reversed(save.slots))  # what is evicted first there is so here, too
        for place in save.places:
            self._cache.put_back(place)
        self.num_aside -= len(save.places)

    def _choose(self, room: int) -> PendingSave:
        save = PendingSave()
        while self._unsaved and len(save.places) < min(room, self._host.num_free):
            place = heapq.heappop(self._unsaved)
            named = self._cache.cached_at(place)
            if named is None or self._refreshed(*named):
                continue
            self._cache.set_aside(place)
            save.places.append(place)
            save.names.append(named)
        save.slots.extend(self._side_by_side(save.blocks))
        return save

    def _side_by_side(self, blocks: list[int]) -> list[int]:
        """Host blocks for cache blocks; neighbours for neighbours, which are one copy then."""
        slots = self._host.try_allocate(len(blocks))
        assert slots is not None, "there were so many free"
        slot_of = dict(zip(sorted(blocks), sorted(slots), strict=True))
        return [slot_of[block] for block in blocks]

    def _refreshed(self, name: bytes, num_hits: int) -> bool:
        """It is here already, and as young as one that comes now."""
        slot = self._host.try_acquire(name)
        if slot is None:
            return False
        if num_hits:
            self._host.note_hits([slot])
        self._host.release([slot])
        return True

    def _forget_stale(self) -> None:
        """Of each block no more than one place counts."""
        if len(self._unsaved) > 2 * self._cache.num_blocks:
            self._unsaved = sorted(p for p in self._unsaved if self._cache.cached_at(p) is not None)
