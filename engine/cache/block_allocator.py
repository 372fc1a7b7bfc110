"""Blocks for what the next step computes: when there are none left, somebody gives way."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.cache.kv_memory import KvMemory
from engine.runner import Slice
from engine.schedule.policy import ScheduledTokens
from engine.schedule.tenant_queue import TenantQueue
from engine.sequence import Sequence, Status
from wire.layout import KvLayout


class BlockAllocator:
    """Who gives way goes from `running` back to `waiting`."""

    def __init__(
        self, running: list[Sequence], waiting: TenantQueue, memory: KvMemory, layout: KvLayout
    ) -> None:
        self.cramped = False
        """A running sequence waits for blocks; nobody starts before it has them."""
        self.num_preemptions = 0
        self._running = running
        self._waiting = waiting
        self._memory = memory
        self._layout = layout
        self._block_size = layout.block_size

    def try_grow(self, share: ScheduledTokens, slices: Seq[Slice]) -> bool:
        """Make the blocks cover the share; others, or at last the sequence itself, give way.

        `slices` are in the step already, and keep what they have.
        """
        sequence = share.sequence
        end = sequence.num_computed + share.count
        if end <= len(sequence.blocks) * self._block_size:
            return True
        missing = self._layout.num_blocks(end) - len(sequence.blocks)
        while (new := self._memory.pool.try_allocate(missing)) is None:
            if self._memory.room_is_coming(missing):
                self.cramped = True
                return False
            victim = choose_victim(self._running, slices)
            if victim is None:
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += new
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        sequence.move(Status.WAITING)
        self._running.remove(sequence)
        self._waiting.put_back(sequence)
        if not self._memory.try_swap_out(sequence):
            self._memory.release(sequence)


def choose_victim(running: Seq[Sequence], slices: Seq[Slice]) -> Sequence | None:
    """The one admitted last, of the least urgent, that no transfer reads and no step needs."""
    needed = {piece.sequence.attempt_id for piece in slices}
    needed |= {s.attempt_id for s in running if s.pinned or s.num_flights}
    free = (s for s in reversed(running) if s.attempt_id not in needed)
    return max(free, key=lambda sequence: sequence.traits.priority, default=None)
