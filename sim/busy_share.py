"""The share of their time that workers compute, by the role that they have meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from sim.clock import VirtualClock
from sim.worker import SimulatedWorker
from wire.identity import Role

NUM_LOOKS = 200
"""How often within the trace's span workers are looked at; a role that changes between two looks
counts from the second."""


class BusyShare:
    """Looks at the workers at even intervals between two times, in virtual seconds."""

    def __init__(
        self,
        clock: VirtualClock,
        workers: Iterable[SimulatedWorker],
        begin_s: float,
        end_s: float,
    ) -> None:
        self._workers = list(workers)
        self._clock = clock
        self._last_s = begin_s
        self._busy_before = [0.0] * len(self._workers)
        self._roles = [worker.engine.policy.role for worker in self._workers]
        self._busy_s = dict.fromkeys(Role, 0.0)
        self._total_s = dict.fromkeys(Role, 0.0)
        clock.at(begin_s, self._begin)
        for number in range(1, NUM_LOOKS + 1):
            clock.at(begin_s + (end_s - begin_s) * number / NUM_LOOKS, self._look)

    def by_role(self) -> dict[Role, float]:
        """From 0 to 1; a role that no worker had is left out."""
        return {
            role: min(1.0, self._busy_s[role] / total_s)
            for role, total_s in self._total_s.items()
            if total_s > 0
        }

    def workers_by_role(self) -> dict[Role, float]:
        """The mean number of workers in each role."""
        whole_s = sum(self._total_s.values())
        if whole_s <= 0:
            return {}
        return {
            role: len(self._workers) * total_s / whole_s for role, total_s in self._total_s.items()
        }

    def _begin(self) -> None:
        self._last_s = self._clock.now
        self._note()

    def _look(self) -> None:
        passed_s = self._clock.now - self._last_s
        self._last_s = self._clock.now
        for worker, before, role in zip(self._workers, self._busy_before, self._roles, strict=True):
            self._busy_s[role] += worker.busy_s - before
            self._total_s[role] += passed_s
        self._note()

    def _note(self) -> None:
        self._busy_before = [worker.busy_s for worker in self._workers]
        self._roles = [worker.engine.policy.role for worker in self._workers]
