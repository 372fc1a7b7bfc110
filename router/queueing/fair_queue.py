"""Requests that wait in the router: by class, then fairly between tenants, then by deadline."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import count

import msgspec


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """A waiting request. `work_s` is its work for one worker."""

    key: str
    tenant: str = ""
    priority: int = 0
    """The lower the sooner."""
    work_s: float = 0.0
    arrived_s: float = 0.0
    """On the caller's clock."""
    target_s: float | None = None
    """Until its first token, from its arrival. None: it waits behind those of its tenant that have
    one."""

    @property
    def due_s(self) -> float:
        return math.inf if self.target_s is None else self.arrived_s + self.target_s


class Lane:
    """The waiting requests of one tenant in one class, the nearest deadline first."""

    def __init__(self, priority: int, tenant: str) -> None:
        self.priority = priority
        self.tenant = tenant
        self.work_s = 0.0
        self._line: list[tuple[float, int, Waiter]] = []  # by deadline, then by arrival

    def __len__(self) -> int:
        return len(self._line)

    def add(self, number: int, waiter: Waiter) -> None:
        insort(self._line, (waiter.due_s, number, waiter))
        self.work_s += waiter.work_s

    def remove(self, number: int, waiter: Waiter) -> None:
        del self._line[bisect_left(self._line, (waiter.due_s, number))]
        self.work_s = max(0.0, self.work_s - waiter.work_s)

    def foremost(self, most: int) -> list[Waiter]:
        return [waiter for _, _, waiter in self._line[:most]]

    def part(self, due_s: float) -> tuple[list[Waiter], list[Waiter]]:
        """The requests due before a new one, and those after it."""
        at = bisect_right(self._line, (due_s, math.inf))
        line = [waiter for _, _, waiter in self._line]
        return line[:at], line[at:]


class FairQueue:
    """Within a class the tenant that has had the least goes first, and of its requests the one
    whose deadline is nearest.

    What tenants have had is counted in seconds of work; one that comes back after a pause starts
    with as much as the least of those that wait, so that idleness earns nothing. (Virtual token
    counter; Sheng et al., OSDI 2024.)
    """

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, Waiter]] = {}
        self._lanes: dict[tuple[int, str], Lane] = {}
        self._had_s: dict[str, float] = {}
        self._num: dict[str, int] = {}  # of the tenants that wait for anything
        self._order = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting

    def add(self, waiter: Waiter) -> None:
        tenant, number = waiter.tenant, next(self._order)
        self._had_s[tenant] = self.had_s(tenant)
        self._num[tenant] = self._num.get(tenant, 0) + 1
        self._waiting[waiter.key] = number, waiter
        lane = self._lanes.setdefault(
            (waiter.priority, tenant), Lane(waiter.priority, waiter.tenant)
        )
        lane.add(number, waiter)

    def remove(self, key: str) -> Waiter | None:
        """It waits no more, whatever became of it."""
        number, waiter = self._waiting.pop(key, (0, None))
        if waiter is None:
            return None
        lane = self._lanes[waiter.priority, waiter.tenant]
        lane.remove(number, waiter)
        if not lane:
            del self._lanes[waiter.priority, waiter.tenant]
        self._num[waiter.tenant] -= 1
        if not self._num[waiter.tenant]:
            del self._num[waiter.tenant]
        return waiter

    def first(self) -> Waiter | None:
        """The next request."""
        return next(iter(self.foremost(1)), None)

    def foremost(self, most: int) -> list[Waiter]:
        """The next, and who could go instead while there is no place for it: others of its tenant,
        then of others."""
        found: list[Waiter] = []
        for lane in sorted(self._lanes.values(), key=self._turn):
            found += lane.foremost(most - len(found))
            if len(found) >= most:
                break
        return found

    def lanes(self) -> Iterator[Lane]:
        """All in which somebody waits, in no order."""
        return iter(self._lanes.values())

    def lane(self, waiter: Waiter) -> Lane:
        """Where it waits, or would."""
        key = waiter.priority, waiter.tenant
        return self._lanes.get(key) or Lane(*key)

    def charge(self, tenant: str, work_s: float) -> None:
        """This tenant has had so much more."""
        self._had_s[tenant] = self._had_s.get(tenant, 0.0) + work_s
        if len(self._had_s) > MOST_TENANTS:
            for quiet in [each for each in self._had_s if each not in self._num]:
                del self._had_s[quiet]

    def had_s(self, tenant: str) -> float:
        """A tenant's served work, as compared for the next turn; an idle tenant counts as if it
        came now."""
        had_s = self._had_s.get(tenant, 0.0)
        if tenant in self._num or not self._num:
            return had_s
        return max(had_s, min(self._had_s.get(other, 0.0) for other in self._num))

    def _turn(self, lane: Lane) -> tuple[int, float]:
        return lane.priority, self._had_s.get(lane.tenant, 0.0)


MOST_TENANTS = 4096
"""Tenants that are remembered while they wait for nothing."""
