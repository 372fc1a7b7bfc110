"""Sequences that gave way: their blocks are copied to host memory, and wait there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from engine.cache.block_pool import BlockPool
from engine.cache.copy_costs import CopyCosts
from engine.cache.pending_copies import PendingCopies
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.layout import KvLayout


@dataclass(slots=True, eq=False)
class Swapped:
    """A sequence's state, in `slots`; some of them may have been here before."""

    num_tokens: int
    slots: list[int]
    leaving: list[int] = field(default_factory=list)
    """Cache blocks that are given back when the copy is made."""
    names: list[tuple[int, bytes]] = field(default_factory=list)
    """Of the slots that the copy fills."""
    dropped: bool = False


class Swapping:
    """A cache block is used until its copy is made, the host block until it is loaded again."""

    def __init__(
        self,
        cache: BlockPool,
        host: BlockPool,
        layout: KvLayout,
        copies: PendingCopies,
        costs: CopyCosts,
    ) -> None:
        self._cache = cache
        self._host = host
        self._layout = layout
        self._copies = copies
        self._costs = costs
        self._swapped: dict[AttemptId, Swapped] = {}
        self._leaving: list[Swapped] = []

    @property
    def num_leaving(self) -> int:
        """Cache blocks that will be free when their copies are made."""
        return sum(len(swapped.leaving) for swapped in self._leaving)

    @property
    def num_copies(self) -> int:
        """Under way."""
        return len(self._leaving)

    def is_leaving(self, sequence: Sequence) -> bool:
        """Its blocks are still being copied here."""
        swapped = self._swapped.get(sequence.attempt_id)
        return swapped is not None and bool(swapped.leaving)

    def try_swap_out(self, sequence: Sequence) -> bool:
        """Take over a sequence's blocks, and give them back when its state is safe here.

        False when computing it again is quicker, or there is no room.
        """
        num_blocks = self._layout.num_blocks(sequence.num_computed)
        names = [*sequence.hashes[: sequence.num_published]]
        slots = [self._host.try_acquire(name) for name in names]
        slots += [None] * (num_blocks - len(slots))
        num_missing = slots.count(None)
        num_bytes = (num_blocks + num_missing) * self._layout.block_bytes
        new = None
        if num_blocks and self._costs.copying_is_quicker(num_bytes, sequence.num_computed):
            new = self._host.try_allocate(num_missing)
        if new is None:
            self._host.release(slot for slot in slots if slot is not None)
            return False
        self._swap_out(sequence, slots, new)
        return True

    def take(self, sequence: Sequence) -> Swapped | None:
        """What is here of a sequence that comes back, and is the caller's from now on."""
        return self._swapped.pop(sequence.attempt_id, None)

    def forget(self, sequence: Sequence) -> None:
        """It ended while it was here, or on its way."""
        swapped = self._swapped.pop(sequence.attempt_id, None)
        if swapped is not None:
            swapped.dropped = True
            if not swapped.leaving:
                self._host.release(swapped.slots)

    def owned_slots(self) -> set[int]:
        """All host blocks of sequences that are here, or on their way."""
        here = [*self._swapped.values(), *self._leaving]
        return {slot for swapped in here for slot in swapped.slots}

    def travelling_blocks(self) -> set[int]:
        """All cache blocks that are being copied."""
        return {block for swapped in self._leaving for block in swapped.leaving}

    def _swap_out(self, sequence: Sequence, slots: list[int | None], new: list[int]) -> None:
        filled = iter(new)
        all_slots = [next(filled) if slot is None else slot for slot in slots]
        swapped = Swapped(sequence.num_computed, all_slots)
        self._swapped[sequence.attempt_id] = swapped
        self._cache.release(sequence.blocks[len(slots) :])
        if not new:
            self._cache.release(sequence.blocks[: len(slots)])
            return
        swapped.leaving = sequence.blocks[: len(slots)]
        missing = [index for index, slot in enumerate(slots) if slot is None]
        named = [index for index in missing if index < sequence.num_published]
        swapped.names = [(all_slots[index], sequence.hashes[index]) for index in named]
        self._leaving.append(swapped)
        blocks = [swapped.leaving[index] for index in missing]
        self._copies.start(blocks, new, partial(self._arrived, swapped), up=False)

    def _arrived(self, swapped: Swapped) -> None:
        self._leaving.remove(swapped)
        for slot, name in swapped.names:
            self._host.publish(slot, name)
        self._cache.release(swapped.leaving)
        swapped.leaving = []
        if swapped.dropped:
            self._host.release(swapped.slots)
