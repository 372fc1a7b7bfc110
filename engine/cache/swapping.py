"""Swapping: the blocks of preempted sequences are copied to host memory, and back later."""

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
    """A preempted sequence's KV cache in host memory; some host blocks were cached there before."""

    num_tokens: int
    host_blocks: list[int]
    leaving: list[int] = field(default_factory=list)
    """Cache blocks that are released when the copy is made."""
    names: list[tuple[int, bytes]] = field(default_factory=list)
    """Host block and hash of each full block that the copy fills."""
    dropped: bool = False


class Swapping:
    """Cache blocks stay used until their copy is made, host blocks until they are loaded again."""

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
        """Cache blocks that are released when their copies are made."""
        return sum(len(swapped.leaving) for swapped in self._leaving)

    @property
    def num_copies(self) -> int:
        """Copies in flight."""
        return len(self._leaving)

    def is_leaving(self, sequence: Sequence) -> bool:
        """True while the sequence's blocks are still being copied to host memory."""
        swapped = self._swapped.get(sequence.attempt_id)
        return swapped is not None and bool(swapped.leaving)

    def try_swap_out(self, sequence: Sequence) -> bool:
        """Take over a sequence's blocks, and release them when they have been copied.

        False when recomputation is quicker, or host memory is full.
        """
        num_blocks = self._layout.num_blocks(sequence.num_computed)
        names = [*sequence.hashes[: sequence.num_published]]
        host_blocks = [self._host.try_acquire(name) for name in names]
        host_blocks += [None] * (num_blocks - len(host_blocks))
        num_missing = host_blocks.count(None)
        num_bytes = (num_blocks + num_missing) * self._layout.block_bytes
        new = None
        if num_blocks and self._costs.copying_is_quicker(num_bytes, sequence.num_computed):
            new = self._host.try_allocate(num_missing)
        if new is None:
            self._host.release(host_block for host_block in host_blocks if host_block is not None)
            return False
        self._swap_out(sequence, host_blocks, new)
        return True

    def take(self, sequence: Sequence) -> Swapped | None:
        """Hand over the state of a sequence that comes back; None when it was not swapped out."""
        return self._swapped.pop(sequence.attempt_id, None)

    def forget(self, sequence: Sequence) -> None:
        """Release the state of a sequence that ended while it was swapped out."""
        swapped = self._swapped.pop(sequence.attempt_id, None)
        if swapped is not None:
            swapped.dropped = True
            if not swapped.leaving:
                self._host.release(swapped.host_blocks)

    def owned_host_blocks(self) -> set[int]:
        """Host blocks of all swapped sequences, including those still being copied."""
        here = [*self._swapped.values(), *self._leaving]
        return {host_block for swapped in here for host_block in swapped.host_blocks}

    def blocks_in_flight(self) -> set[int]:
        """Cache blocks that are being copied."""
        return {block for swapped in self._leaving for block in swapped.leaving}

    def _swap_out(self, sequence: Sequence, host_blocks: list[int | None], new: list[int]) -> None:
        filled = iter(new)
        all_host_blocks = [
            next(filled) if host_block is None else host_block for host_block in host_blocks
        ]
        swapped = Swapped(sequence.num_computed, all_host_blocks)
        self._swapped[sequence.attempt_id] = swapped
        self._cache.release(sequence.blocks[len(host_blocks) :])
        if not new:
            self._cache.release(sequence.blocks[: len(host_blocks)])
            return
        swapped.leaving = sequence.blocks[: len(host_blocks)]
        missing = [index for index, host_block in enumerate(host_blocks) if host_block is None]
        named = [index for index in missing if index < sequence.num_published]
        swapped.names = [(all_host_blocks[index], sequence.hashes[index]) for index in named]
        self._leaving.append(swapped)
        blocks = [swapped.leaving[index] for index in missing]
        self._copies.start(blocks, new, partial(self._copied, swapped), up=False)

    def _copied(self, swapped: Swapped) -> None:
        self._leaving.remove(swapped)
        for host_block, name in swapped.names:
            self._host.publish(host_block, name)
        self._cache.release(swapped.leaving)
        swapped.leaving = []
        if swapped.dropped:
            self._host.release(swapped.host_blocks)
