"""Blocks for the next step, with preemption: when none are left, a running sequence gives way."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.cache.kv_memory import KvMemory
from engine.runner import Slice
from engine.schedule.policy import ScheduledTokens
from engine.schedule.tenant_queue import TenantQueue
from engine.sequence import Sequence, Status
from wire.layout import KvLayout


class BlockAllocator:
    """Preempted sequences go from `running` back to `waiting`."""

    def __init__(
        self, running: list[Sequence], waiting: TenantQueue, memory: KvMemory, layout: KvLayout
    ) -> None:
        self.waiting_for_blocks = False
        """True while a running sequence waits for blocks; no other starts before it has them."""
        self.num_preemptions = 0
        self._running = running
        self._waiting = waiting
        self._memory = memory
        self._layout = layout
        self._block_size = layout.block_size

    def try_grow(self, scheduled: ScheduledTokens, slices: Seq[Slice]) -> bool:
        """Allocate blocks for the scheduled tokens; preempt others, or at last the sequence itself.

        False when it cannot run in this step. `slices` are in the step already, and are not
        preempted.
        """
        sequence = scheduled.sequence
        end = sequence.num_computed + scheduled.count
        if end <= len(sequence.blocks) * self._block_size:
            return True
        missing = self._layout.num_blocks(end) - len(sequence.blocks)
        while (new := self._memory.pool.try_allocate(missing)) is None:
            if self._memory.will_free(missing):
                self.waiting_for_blocks = True
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
    """The least urgent sequence, of those the one admitted last, that neither a transfer nor a step
    in flight needs."""
    needed = {slice.sequence.attempt_id for slice in slices}
    needed |= {s.attempt_id for s in running if s.pinned or s.num_steps_in_flight}
    free = (s for s in reversed(running) if s.attempt_id not in needed)
    return max(free, key=lambda sequence: sequence.traits.priority, default=None)
