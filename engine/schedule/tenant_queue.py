"""The waiting queue: preempted sequences first, then by priority, then fair between tenants."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.sequence import Sequence

MAX_TENANTS = 4096
"""Tenants whose service is remembered; beyond that, those with nothing waiting are dropped."""


class TenantQueue:
    """Sequences that wait for blocks.

    Tenants of one priority take turns by the tokens that were computed for them, not by requests:
    each has a clock that its tokens advance, and the one that is furthest behind goes next. A
    tenant that comes back after a pause starts at the clock of those being served, so that idleness
    earns nothing. (Start-time fair queueing, Goyal et al., SIGCOMM 1996; for language models
    Sheng et al., OSDI 2024.) Within a tenant: first come, first served.
    """

    def __init__(self) -> None:
        self._preempted: deque[Sequence] = deque()
        self._queues: dict[tuple[int, str], deque[Sequence]] = {}  # none of them is empty
        self._clocks: dict[str, int] = {}
        self._now = 0  # the clock of the tenant that was served last

    def __len__(self) -> int:
        return len(self._preempted) + sum(len(queue) for queue in self._queues.values())

    def __bool__(self) -> bool:
        return bool(self._preempted or self._queues)

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences, preempted ones first; tenants in no order."""
        yield from self._preempted
        for queue in self._queues.values():
            yield from queue

    def add(self, sequence: Sequence) -> None:
        """Append a sequence to its tenant's queue of that priority."""
        key = (sequence.traits.priority, sequence.traits.tenant)
        if key not in self._queues:
            self._queues[key] = deque()
            self._catch_up(sequence.traits.tenant)
        self._queues[key].append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence: before all that have not run yet, behind earlier ones."""
        sequence.preempted = True
        self._preempted.append(sequence)

    def first(self) -> Sequence | None:
        """The sequence to start next."""
        if self._preempted:
            return self._preempted[0]
        if not self._queues:
            return None
        return self._queues[min(self._queues, key=self._turn)][0]

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that starts or was cancelled."""
        if sequence.preempted:
            self._preempted.remove(sequence)
            return
        key = (sequence.traits.priority, sequence.traits.tenant)
        self._queues[key].remove(sequence)
        if not self._queues[key]:
            del self._queues[key]

    def charge(self, tenant: str, num_tokens: int) -> None:
        """Advance a tenant's clock by tokens that are computed for it."""
        before = self._clocks.get(tenant, 0)
        self._now = max(self._now, before)
        self._clocks[tenant] = before + num_tokens

    def _turn(self, key: tuple[int, str]) -> tuple[int, int]:
        priority, tenant = key
        return priority, self._clocks.get(tenant, 0)

    def _catch_up(self, tenant: str) -> None:
        self._clocks[tenant] = max(self._clocks.get(tenant, 0), self._now)
        if len(self._clocks) > MAX_TENANTS:
            waiting = {tenant for _, tenant in self._queues}
            self._clocks = {name: clock for name, clock in self._clocks.items() if name in waiting}
