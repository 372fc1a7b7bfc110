"""KV cache offloading: a second block pool, in host memory.

There are three kinds of copies. Blocks without references are *saved*, the next to be evicted
first, so that an eviction never waits. Blocks that a new sequence finds in host memory are *loaded*
before it starts. A preempted sequence is *swapped out* with its whole KV cache, and loaded again.

    save        cache block: set aside until the copy is made      host block: used, then cached
    load        cache block: the sequence's, not to be read yet    host block: used
    swap        cache block: used until the copy is made           host block: used until loaded

A tier of disks would stand behind `pool` as this one stands behind the cache.
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
"""Timeout of a load, or four times its predicted duration; then its blocks are recomputed."""


@dataclass(slots=True, eq=False)
class PendingLoad:
    """Copies `host_blocks` into `blocks`, which belong to `sequence`; None when it gave them up."""

    sequence: Sequence | None
    blocks: list[int]
    host_blocks: list[int]
    num_tokens: int
    """The sequence's computed tokens when the load is over."""
    deadline: float


class HostTier:
    """Blocks in host memory behind the KV cache: evicted blocks are kept here and loaded again.

    The engine's thread owns it; `copier` copies in a thread of its own. `clock` gives seconds.
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
        self._copied: list[PendingLoad] = []

    @property
    def busy(self) -> bool:
        """True while copies are in flight."""
        return len(self._copies) > 0

    @property
    def num_loading(self) -> int:
        """Sequences that wait for their blocks to be loaded."""
        return sum(load.sequence is not None for load in self._loads)

    @property
    def num_leaving(self) -> int:
        """Cache blocks that will be free when copies in flight have been made."""
        return self._swapping.num_leaving + self._saving.num_aside

    def poll(self) -> list[PendingLoad]:
        """Finish copies that were made, start saves, and return loads whose sequences can start."""
        self._copies.poll()
        save = self._saving.try_begin()
        if save is not None:
            self._saves.append(save)
            self._copies.start(save.blocks, save.host_blocks, partial(self._saved, save), up=False)
        arrived, self._copied = self._copied, []
        return arrived

    def overdue(self) -> list[PendingLoad]:
        """Loads past their deadline, whose sequences still wait."""
        if not self._loads:
            return []
        now = self._clock()
        waited_for = (load for load in self._loads if load.sequence is not None)
        return [load for load in waited_for if now >= load.deadline]

    def try_load(self, sequence: Sequence) -> bool:
        """Load the blocks behind the sequence's computed ones, as far as host memory has them.

        The last token is computed in any case. False when host memory has none, or recomputation
        is quicker.
        """
        first = sequence.num_computed // self._layout.block_size
        swapped = self._swapping.take(sequence)
        if swapped is not None:
            self.pool.release(swapped.host_blocks[:first])
            host_blocks, num_tokens = swapped.host_blocks[first:], swapped.num_tokens
        else:
            host_blocks = self._try_find(sequence, first)
            num_there = (first + len(host_blocks)) * self._layout.block_size
            num_tokens = min(num_there, len(sequence.tokens) - 1)
        if host_blocks:
            predicted_s = self.costs.copy_s(len(host_blocks) * self._layout.block_bytes)
            patience_s = max(LEAST_PATIENCE_S, 4 * predicted_s)
            self._load(sequence, host_blocks, first, num_tokens, patience_s)
        return bool(host_blocks)

    def load_all(self, sequence: Sequence) -> None:
        """Load all blocks that are not computed; host memory has every one of them."""
        first = sequence.num_computed // self._layout.block_size
        host_blocks = self.pool.acquire_prefix(sequence.hashes[first:])
        self.pool.note_hits(host_blocks)
        self._load(sequence, host_blocks, first, len(sequence.tokens), patience_s=math.inf)

    def forget(self, sequence: Sequence) -> None:
        """Release host memory of a sequence that ended, and give up its loads."""
        self._swapping.forget(sequence)
        for load in self._loads:
            if load.sequence is sequence:
                sequence.blocks = [b for b in sequence.blocks if b not in set(load.blocks)]
                self.give_up(load)

    def give_up(self, load: PendingLoad) -> None:
        """Detach a load from its sequence; the blocks are released when the copy is made."""
        load.sequence = None

    def close(self) -> None:
        self._copies.close()

    def check_integrity(self) -> None:
        """Raises AssertionError when a host block is lost, or a block is free while copied."""
        self.pool.check_integrity()
        ours = self._swapping.owned_host_blocks()
        in_flight = self._swapping.blocks_in_flight()
        copied: list[PendingSave | PendingLoad] = [*self._saves, *self._loads]
        ours.update(host_block for each in copied for host_block in each.host_blocks)
        in_flight.update(block for each in copied for block in each.blocks)
        assert ours == self.pool.used_blocks(), "a host block is lost, or has no owner"
        assert in_flight <= self._cache.used_blocks(), "a block is free while it is copied"
        num_in_flight = len(self._saves) + len(self._loads) + self._swapping.num_copies
        assert num_in_flight == len(self._copies), "a copy in flight has no owner"

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
        host_blocks = self.pool.acquire_prefix(names)
        self.pool.note_hits(host_blocks)
        return host_blocks

    def _load(
        self,
        sequence: Sequence,
        host_blocks: list[int],
        first: int,
        num_tokens: int,
        patience_s: float,
    ) -> None:
        blocks = sequence.blocks[first : first + len(host_blocks)]
        load = PendingLoad(sequence, blocks, host_blocks, num_tokens, self._clock() + patience_s)
        self._loads.append(load)
        self._copies.start(blocks, host_blocks, partial(self._loaded, load), up=True)

    def _saved(self, save: PendingSave) -> None:
        self._saves.remove(save)
        self._saving.end(save)

    def _loaded(self, load: PendingLoad) -> None:
        self._loads.remove(load)
        self.pool.release(load.host_blocks)
        if load.sequence is None:
            self._cache.release(load.blocks)
        else:
            self._copied.append(load)
