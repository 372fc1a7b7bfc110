"""The pool behind the pool: blocks in host memory, for what does not fit into the cache.

Three things travel. Blocks that fell out of use are *saved*, those to be evicted next first, so
that an eviction never waits. What a sequence finds here is *loaded* before it starts. A sequence
that must give way is *swapped out* with all that was computed, and loaded again.

    save        cache block: set aside until the copy is made      host block: used, then cached
    load        cache block: the sequence's, not to be read yet    host block: used
    swap        cache block: used until the copy is made           host block: used until loaded

A tier of disks would stand behind `pool` as this one stands behind the cache: it would watch what
falls out of use here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from engine.cache.block_copier import BlockCopier
from engine.cache.block_pool import BlockPool
from engine.cache.copy_costs import CopyCosts
from engine.cache.offload import Offload, PendingSave
from engine.cache.pending_copies import PendingCopies
from engine.cache.swapping import Swapping
from engine.sequence import Sequence
from wire.layout import KvLayout

LEAST_PATIENCE_S = 0.25
"""A load may take so long, or four times as long as predicted, before its blocks are computed."""


@dataclass(slots=True, eq=False)
class PendingLoad:
    """Host blocks `slots` come into `blocks`, which `sequence` has; None when it gave them up."""

    sequence: Sequence | None
    blocks: list[int]
    slots: list[int]
    num_tokens: int
    """So many are computed when all are there."""
    deadline: float


class HostTier:
    """Owned by the engine's thread; the copier does the rest elsewhere.

    `clock` is in seconds.
    """

    def __init__(
        self,
        cache: BlockPool,
        num_blocks: int,
        layout: KvLayout,
        copier: BlockCopier,
        clock: Callable[[], float],
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.costs = CopyCosts()
        self._cache = cache
        self._layout = layout
        self._clock = clock
        self._copies = PendingCopies(copier, layout.block_bytes, self.costs)
        self._saving = Offload(cache, self.pool)
        self._swapping = Swapping(cache, self.pool, layout, self._copies, self.costs)
        self.is_leaving = self._swapping.is_leaving
        self.try_swap_out = self._swapping.try_swap_out
        self._saves: list[PendingSave] = []
        self._loads: list[PendingLoad] = []
        self._arrived: list[PendingLoad] = []

    @property
    def busy(self) -> bool:
        """Copies are under way."""
        return len(self._copies) > 0

    @property
    def num_loading(self) -> int:
        """Sequences that wait for their blocks."""
        return sum(load.sequence is not None for load in self._loads)

    @property
    def num_leaving(self) -> int:
        """Cache blocks that will be free without anybody's giving way."""
        return self._swapping.num_leaving + self._saving.num_aside

    def poll(self) -> list[PendingLoad]:
        """Look after the copies. Returns the loads that are through, of sequences that wait."""
        self._copies.poll()
        save = self._saving.try_begin()
        if save is not None:
            self._saves.append(save)
            self._copies.start(save.blocks, save.slots, partial(self._saved, save), up=False)
        arrived, self._arrived = self._arrived, []
        return arrived

    def overdue(self) -> list[PendingLoad]:
        """Loads that sequences have waited for long enough."""
        if not self._loads:
            return []
        now = self._clock()
        waited_for = (load for load in self._loads if load.sequence is not None)
        return [load for load in waited_for if now >= load.deadline]

    def try_load(self, sequence: Sequence) -> bool:
        """Have the blocks behind the sequence's computed ones filled, as far as they are here.

        Its last token is to be computed, wherever its cache is. False when there are none, or
        computing them is quicker.
        """
        first = sequence.num_computed // self._layout.block_size
        swapped = self._swapping.take(sequence)
        if swapped is not None:
            self.pool.release(swapped.slots[:first])
            slots, num_tokens = swapped.slots[first:], swapped.num_tokens
        else:
            slots = self._try_find(sequence, first)
            num_there = (first + len(slots)) * self._layout.block_size
            num_tokens = min(num_there, len(sequence.tokens) - 1)
        if slots:
            predicted_s = self.costs.copy_s(len(slots) * self._layout.block_bytes)
            patience_s = max(LEAST_PATIENCE_S, 4 * predicted_s)
            self._load(sequence, slots, first, num_tokens, patience_s)
        return bool(slots)

    def load_all(self, sequence: Sequence) -> None:
        """Have all blocks filled that lack something. They are here, and nobody else has them."""
        first = sequence.num_computed // self._layout.block_size
        slots = self.pool.acquire_prefix(sequence.hashes[first:])
        self.pool.note_hits(slots)
        self._load(sequence, slots, first, len(sequence.tokens), patience_s=math.inf)

    def forget(self, sequence: Sequence) -> None:
        """It ended while it was here, or on its way."""
        self._swapping.forget(sequence)
        for load in self._loads:
            if load.sequence is sequence:
                sequence.blocks = [b for b in sequence.blocks if b not in set(load.blocks)]
                self.give_up(load)

    def give_up(self, load: PendingLoad) -> None:
        """Its sequence has other blocks now; these are nobody's as soon as the copy is made."""
        load.sequence = None

    def close(self) -> None:
        self._copies.close()

    def check_integrity(self) -> None:
        """Raises AssertionError when a host block is lost, or one that travels is free."""
        self.pool.check_integrity()
        ours = self._swapping.owned_slots()
        travelling = self._swapping.travelling_blocks()
        copied: list[PendingSave | PendingLoad] = [*self._saves, *self._loads]
        ours.update(slot for each in copied for slot in each.slots)
        travelling.update(block for each in copied for block in each.blocks)
        assert ours == self.pool.used_blocks(), "a host block is used by nobody, or has no owner"
        assert travelling <= self._cache.used_blocks(), "a block is free while it is copied"
        num_under_way = len(self._saves) + len(self._loads) + self._swapping.num_copies
        assert num_under_way == len(self._copies), "a copy is under way for nobody"

    def _try_find(self, sequence: Sequence, first: int) -> list[int]:
        if sequence.wants_scores:
            return []
        size, names = self._layout.block_size, sequence.hashes[first:]
        num_found = self.pool.match_prefix(names)
        if not num_found or len(sequence.tokens) - first * size <= size:
            return []
        num_bytes = num_found * self._layout.block_bytes
        if not self.costs.copying_is_quicker(num_bytes, num_found * size, first * size):
            return []
        slots = self.pool.acquire_prefix(names)
        self.pool.note_hits(slots)
        return slots

    def _load(
        self,
        sequence: Sequence,
        slots: list[int],
        first: int,
        num_tokens: int,
        patience_s: float,
    ) -> None:
        blocks = sequence.blocks[first : first + len(slots)]
        load = PendingLoad(sequence, blocks, slots, num_tokens, self._clock() + patience_s)
        self._loads.append(load)
        self._copies.start(blocks, slots, partial(self._loaded, load), up=True)

    def _saved(self, save: PendingSave) -> None:
        self._saves.remove(save)
        self._saving.end(save)

    def _loaded(self, load: PendingLoad) -> None:
        self._loads.remove(load)
        self.pool.release(load.slots)
        if load.sequence is None:
            self._cache.release(load.blocks)
        else:
            self._arrived.append(load)
