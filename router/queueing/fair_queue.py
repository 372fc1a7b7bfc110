"""Requests that wait in the router: by class, then fairly between tenants, then by deadline."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import count

import msgspec


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Its `work_s` is what it asks of one worker."""

    key: str
    tenant: str = ""
    priority: int = 0
    """The lower the sooner."""
    work_s: float = 0.0
    deadline_s: float | None = None
    """On the caller's clock, until its first token; None: it waits behind those that have one."""


class FairQueue:
    """Within a class the tenant that has had the least goes first, and of its requests the one
    whose deadline is nearest.

    What tenants have had is counted in seconds of work; one that comes back after a pause starts
    with as much as the least of those that wait, so that idleness earns nothing. (Virtual token
    counter; Sheng et al., OSDI 2024.)
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Waiter] = {}
        self._heaps: dict[tuple[int, str], list[tuple[float, int, str]]] = {}
        self._had_s: dict[str, float] = {}
        self._num: dict[str, int] = {}  # of the tenants that wait for anything
        self._order = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        """In no order."""
        return iter(list(self._waiting.values()))

    def __contains__(self, key: str) -> bool:
        return key in self._waiting

    def add(self, waiter: Waiter) -> None:
        tenant = waiter.tenant
        if tenant not in self._num:
            self._catch_up(tenant)
            self._num[tenant] = 0
        self._num[tenant] += 1
        self._waiting[waiter.key] = waiter
        due = math.inf if waiter.deadline_s is None else waiter.deadline_s
        heap = self._heaps.setdefault((waiter.priority, tenant), [])
        heapq.heappush(heap, (due, next(self._order), waiter.key))

    def first(self) -> Waiter | None:
        """Who is next."""
        while self._heaps:
            least = min(self._heaps, key=lambda heap: (heap[0], self._had_s.get(heap[1], 0.0)))
            heap = self._heaps[least]
            while heap and heap[0][2] not in self._waiting:
                heapq.heappop(heap)
            if heap:
                return self._waiting[heap[0][2]]
            del self._heaps[least]
        return None

    def last(self) -> Waiter | None:
        """Who gives way when there is no room: of the least urgent class the latest of the tenant
        that waits for most."""
        if not self._waiting:
            return None
        lowest = max(waiter.priority for waiter in self._waiting.values())
        work_s = self._work(lowest)
        return max(
            (waiter for waiter in self._waiting.values() if waiter.priority == lowest),
            key=lambda waiter: (
                work_s[waiter.tenant],
                math.inf if waiter.deadline_s is None else waiter.deadline_s,
            ),
        )

    def remove(self, key: str) -> Waiter | None:
        """It waits no more, whatever became of it."""
        waiter = self._waiting.pop(key, None)
        if waiter is not None:
            tenant = waiter.tenant
            self._num[tenant] -= 1
            if not self._num[tenant]:
                del self._num[tenant]
        return waiter

    def charge(self, tenant: str, work_s: float) -> None:
        """This tenant has had so much more."""
        self._had_s[tenant] = self._had_s.get(tenant, 0.0) + work_s
        if len(self._had_s) > MOST_TENANTS:
            for quiet in [each for each in self._had_s if each not in self._num]:
                del self._had_s[quiet]

    def ahead_s(self, tenant: str, priority: int) -> float:
        """Work that comes before a new request: its tenant's, and as much of each other's."""
        work_s = self._work(priority)
        own_s = work_s.get(tenant, 0.0)
        return sum(min(each, own_s) for each in work_s.values())

    def _work(self, priority: int) -> dict[str, float]:
        """What tenants wait for in classes that are at least so urgent."""
        work_s: dict[str, float] = {}
        for waiter in self._waiting.values():
            if waiter.priority <= priority:
                work_s[waiter.tenant] = work_s.get(waiter.tenant, 0.0) + waiter.work_s
        return work_s

    def _catch_up(self, tenant: str) -> None:
        others = [self._had_s.get(other, 0.0) for other in self._num]
        if others:
            self._had_s[tenant] = max(self._had_s.get(tenant, 0.0), min(others))


MOST_TENANTS = 4096
"""Tenants that are remembered while they wait for nothing."""
