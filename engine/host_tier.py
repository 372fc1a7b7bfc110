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
from dataclasses import dataclass, field

from engine.blocks import BlockPool
from engine.copier import BlockCopier, Copied, Copy
from engine.copy_costs import CopyCosts
from engine.saving import Save, Saving
from engine.sequence import Sequence
from wire.identity import Leg
from wire.layout import KvLayout

LEAST_PATIENCE_S = 0.25
"""A load may take so long, or four times as long as predicted, before its blocks are computed."""


@dataclass(slots=True, eq=False)
class Load:
    """Host blocks `slots` come into `blocks`, which `sequence` has; None when it gave them up."""

    sequence: Sequence | None
    blocks: list[int]
    slots: list[int]
    num_tokens: int
    """So many are computed when all are there."""
    deadline: float


@dataclass(slots=True, eq=False)
class _Swapped:
    """A sequence's state, in `slots`; some of them may have been here before."""

    num_tokens: int
    slots: list[int]
    leaving: list[int] = field(default_factory=list)
    """Cache blocks that are given back when the copy is made."""
    names: list[tuple[int, bytes]] = field(default_factory=list)
    """Of the slots that the copy fills."""
    dropped: bool = False


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
        self._copier = copier
        self._clock = clock
        self._saving = Saving(cache, self.pool)
        self._sizes: dict[int, int] = {}  # blocks of each copy under way
        self._saves: dict[int, Save] = {}
        self._loads: dict[int, Load] = {}
        self._leaving: dict[int, _Swapped] = {}
        self._swapped: dict[Leg, _Swapped] = {}
        self._num_copies = 0

    @property
    def busy(self) -> bool:
        """Copies are under way."""
        return bool(self._sizes)

    @property
    def num_loading(self) -> int:
        """Sequences that wait for their blocks."""
        return sum(load.sequence is not None for load in self._loads.values())

    @property
    def num_leaving(self) -> int:
        """Cache blocks that will be free without anybody's giving way."""
        swapping = sum(len(swapped.leaving) for swapped in self._leaving.values())
        return swapping + self._saving.num_aside

    def poll(self) -> list[Load]:
        """Look after the copies. Returns the loads that are through, of sequences that wait."""
        copied = self._copier.take_copied()
        arrived = [load for each in copied if (load := self._ended(each)) is not None]
        save = self._saving.try_begin()
        if save is not None:
            self._saves[self._start(save.blocks, save.slots, up=False)] = save
        return arrived

    def overdue(self) -> list[Load]:
        """Loads that sequences have waited for long enough."""
        if not self._loads:
            return []
        now = self._clock()
        waited_for = (load for load in self._loads.values() if load.sequence is not None)
        return [load for load in waited_for if now >= load.deadline]

    def is_leaving(self, sequence: Sequence) -> bool:
        """Its blocks are still being copied here."""
        swapped = self._swapped.get(sequence.leg)
        return swapped is not None and bool(swapped.leaving)

    def try_load(self, sequence: Sequence) -> bool:
        """Have the blocks behind the sequence's computed ones filled, as far as they are here.

        Its last token is to be computed, wherever its cache is. False when there are none, or
        computing them is quicker.
        """
        first = sequence.num_computed // self._layout.block_size
        swapped = self._swapped.pop(sequence.leg, None)
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

    def try_swap_out(self, sequence: Sequence) -> bool:
        """Take over a sequence's blocks, and give them back when its state is safe here.

        False when computing it again is quicker, or there is no room.
        """
        num_blocks = self._layout.num_blocks(sequence.num_computed)
        names = [*sequence.hashes[: sequence.num_published]]
        slots = [self.pool.try_acquire(name) for name in names]
        slots += [None] * (num_blocks - len(slots))
        num_missing = slots.count(None)
        num_bytes = (num_blocks + num_missing) * self._layout.block_bytes
        new = None
        if num_blocks and self.costs.copying_is_quicker(num_bytes, sequence.num_computed):
            new = self.pool.try_allocate(num_missing)
        if new is None:
            self.pool.release(slot for slot in slots if slot is not None)
            return False
        self._swap_out(sequence, slots, new)
        return True

    def forget(self, sequence: Sequence) -> None:
        """It ended while it was here, or on its way."""
        swapped = self._swapped.pop(sequence.leg, None)
        if swapped is not None:
            swapped.dropped = True
            if not swapped.leaving:
                self.pool.release(swapped.slots)
        for load in self._loads.values():
            if load.sequence is sequence:
                sequence.blocks = [b for b in sequence.blocks if b not in set(load.blocks)]
                self.give_up(load)

    def give_up(self, load: Load) -> None:
        """Its sequence has other blocks now; these are nobody's as soon as the copy is made."""
        load.sequence = None

    def close(self) -> None:
        self._copier.close()

    def check_integrity(self) -> None:
        """Raises AssertionError when a host block is lost, or one that travels is free."""
        self.pool.check_integrity()
        owned = [save.slots for save in self._saves.values()]
        owned += [load.slots for load in self._loads.values()]
        owned += [swapped.slots for swapped in self._swapped.values()]
        owned += [swapped.slots for swapped in self._leaving.values()]
        ours = {slot for slots in owned for slot in slots}
        assert ours == self.pool.used_blocks(), "a host block is used by nobody, or has no owner"
        travelling = {block for save in self._saves.values() for block in save.blocks}
        for load in self._loads.values():
            travelling.update(load.blocks)
        for swapped in self._leaving.values():
            travelling.update(swapped.leaving)
        assert travelling <= self._cache.used_blocks(), "a block is free while it is copied"
        under_way = self._saves.keys() | self._loads.keys() | self._leaving.keys()
        assert under_way == self._sizes.keys(), "a copy is under way for nobody"

    def _try_find(self, sequence: Sequence, first: int) -> list[int]:
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
        load = Load(sequence, blocks, slots, num_tokens, self._clock() + patience_s)
        self._loads[self._start(blocks, slots, up=True)] = load

    def _swap_out(self, sequence: Sequence, slots: list[int | None], new: list[int]) -> None:
        filled = iter(new)
        all_slots = [next(filled) if slot is None else slot for slot in slots]
        swapped = _Swapped(sequence.num_computed, all_slots)
        self._swapped[sequence.leg] = swapped
        self._cache.release(sequence.blocks[len(slots) :])
        if not new:
            self._cache.release(sequence.blocks[: len(slots)])
            return
        swapped.leaving = sequence.blocks[: len(slots)]
        missing = [index for index, slot in enumerate(slots) if slot is None]
        named = [index for index in missing if index < sequence.num_published]
        swapped.names = [(all_slots[index], sequence.hashes[index]) for index in named]
        blocks = [swapped.leaving[index] for index in missing]
        self._leaving[self._start(blocks, new, up=False)] = swapped

    def _start(self, blocks: list[int], slots: list[int], *, up: bool) -> int:
        self._num_copies += 1
        self._sizes[self._num_copies] = len(blocks)
        ends = sorted(zip(blocks, slots, strict=True))  # neighbours are one copy
        copied = tuple(block for block, _ in ends), tuple(slot for _, slot in ends)
        self._copier.start(Copy(self._num_copies, *copied, up))
        return self._num_copies

    def _ended(self, copied: Copied) -> Load | None:
        number = copied.number
        self.costs.observe_copy(self._sizes.pop(number) * self._layout.block_bytes, copied.seconds)
        if number in self._saves:
            self._saving.end(self._saves.pop(number))
        elif number in self._leaving:
            self._swapped_out(self._leaving.pop(number))
        else:
            return self._loaded(self._loads.pop(number))
        return None

    def _swapped_out(self, swapped: _Swapped) -> None:
        for slot, name in swapped.names:
            self.pool.publish(slot, name)
        self._cache.release(swapped.leaving)
        swapped.leaving = []
        if swapped.dropped:
            self.pool.release(swapped.slots)

    def _loaded(self, load: Load) -> Load | None:
        self.pool.release(load.slots)
        if load.sequence is None:
            self._cache.release(load.blocks)
            return None
        return load
