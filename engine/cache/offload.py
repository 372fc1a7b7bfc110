"""Chooses the cached blocks that are copied to host memory before they are evicted; pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from engine.cache.block_pool import BlockPool, EvictionRank

MAX_SAVING = 32
"""Blocks that are set aside at a time, if that is not more than an eighth of the cache."""
ROOMY = 2
"""While more than one in so many blocks of the cache are blank, none is about to be evicted."""


@dataclass(frozen=True, slots=True)
class PendingSave:
    """Cache blocks that are set aside for a copy, each with its host block, hash and hits."""

    ranks: list[EvictionRank] = field(default_factory=list)
    host_blocks: list[int] = field(default_factory=list)
    names: list[tuple[bytes, int]] = field(default_factory=list)
    """Hash and hits of each block."""

    @property
    def blocks(self) -> list[int]:
        return [rank[2] for rank in self.ranks]


class Offload:
    """Offloads blocks that no sequence references, the next to be evicted first."""

    def __init__(self, cache: BlockPool, host: BlockPool) -> None:
        self._cache = cache
        self._host = host
        self._most = max(1, min(MAX_SAVING, cache.num_blocks // 8))
        self._unsaved: list[EvictionRank] = []  # a heap; some are stale
        self.num_aside = 0
        """Cache blocks that are set aside until their copy is made."""
        cache.track_newly_cached()

    def try_begin(self) -> PendingSave | None:
        """Set aside the blocks to be evicted next that are not in host memory yet."""
        for rank in self._cache.take_newly_cached():
            heapq.heappush(self._unsaved, rank)
        self._forget_stale()
        if not self._unsaved or self._cache.num_blank * ROOMY >= self._cache.num_blocks:
            return None
        save = self._choose(self._most - self.num_aside)
        self.num_aside += len(save.ranks)
        return save if save.ranks else None

    def end(self, save: PendingSave) -> None:
        """The copy is made: the blocks have their eviction ranks again."""
        for host_block, (name, num_hits) in zip(save.host_blocks, save.names, strict=True):
            self._host.publish(host_block, name, num_hits=num_hits)
        self._host.release(reversed(save.host_blocks))  # the same order of eviction as in the cache
        for rank in save.ranks:
            self._cache.put_back(rank)
        self.num_aside -= len(save.ranks)

    def _choose(self, room: int) -> PendingSave:
        save = PendingSave()
        while self._unsaved and len(save.ranks) < min(room, self._host.num_free):
            rank = heapq.heappop(self._unsaved)
            named = self._cache.cached_block(rank)
            if named is None or self._refreshed(*named):
                continue
            self._cache.set_aside(rank)
            save.ranks.append(rank)
            save.names.append(named)
        save.host_blocks.extend(self._side_by_side(save.blocks))
        return save

    def _side_by_side(self, blocks: list[int]) -> list[int]:
        """Host blocks for cache blocks, contiguous where those are: a run of them is one copy."""
        host_blocks = self._host.try_allocate(len(blocks))
        assert host_blocks is not None, "there were so many free"
        host_block_of = dict(zip(sorted(blocks), sorted(host_blocks), strict=True))
        return [host_block_of[block] for block in blocks]

    def _refreshed(self, name: bytes, num_hits: int) -> bool:
        """True when host memory has the block already; its eviction is put off."""
        host_block = self._host.try_acquire(name)
        if host_block is None:
            return False
        if num_hits:
            self._host.note_hits([host_block])
        self._host.release([host_block])
        return True

    def _forget_stale(self) -> None:
        """Drop ranks that no longer count, when they are the most."""
        if len(self._unsaved) > 2 * self._cache.num_blocks:
            self._unsaved = sorted(
                p for p in self._unsaved if self._cache.cached_block(p) is not None
            )
