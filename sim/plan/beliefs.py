"""What trials have taught about the formula's error, and so how likely pools are to serve."""

from __future__ import annotations

import math

from sim.plan.formula import Estimate, Side
from sim.plan.pool_choice import PoolChoice, WorkerKind
from sim.plan.trials import Trial
from wire.identity import Role

UNTRIED, TRIED = 0.15, 0.05
"""Relative standard error of an estimate, before and after a trial of its kind of worker."""

_Key = tuple[WorkerKind, Role | None, int]


class Beliefs:
    """A factor for each kind of worker and role, by which the formula is corrected.

    A trial that passed raises the factor to what was served; one that failed lowers that of the
    side which failed. Role is None for workers that do both.
    """

    def __init__(self) -> None:
        self._factors: dict[_Key, float] = {}

    def chance(self, choice: PoolChoice, estimate: Estimate, requests_per_s: float) -> float:
        """Probability, from 0 to 1, that the choice serves this rate within its targets."""
        found = 1.0
        for key, side in _sides(choice, estimate):
            error = TRIED if key in self._factors else UNTRIED
            served = side.requests_per_s * self._factors.get(key, 1.0)
            found *= _normal((served / requests_per_s - 1) / error)
        return found

    def learn(self, trial: Trial, estimate: Estimate) -> None:
        """Take a trial's outcome into account."""
        for key, side in _sides(trial.choice, estimate):
            before = self._factors.get(key, 1.0)
            needed = trial.requests_per_s / max(side.requests_per_s, 1e-9)
            if trial.passed:
                self._factors[key] = max(before, needed)
            elif _failed(trial, key[1]):
                self._factors[key] = min(before, needed * _served(trial))


def _sides(choice: PoolChoice, estimate: Estimate) -> list[tuple[_Key, Side]]:
    family = choice.family
    if family.prefill is None or estimate.prefill is None:
        return [((family.decode, None, 0), estimate.decode)]
    return [
        ((family.prefill, Role.PREFILL, family.chunk_tokens), estimate.prefill),
        ((family.decode, Role.DECODE, 0), estimate.decode),
    ]


def _failed(trial: Trial, role: Role | None) -> bool:
    """First tokens are the prefill workers' affair, further ones the decode workers'."""
    summary = trial.summary
    late_first = summary.ttft_attainment <= summary.tpot_attainment
    return role is None or late_first == (role is Role.PREFILL)


def _served(trial: Trial) -> float:
    """Share of the rate that was served in time, less a little, since not all of it was."""
    return min(0.98, max(0.3, trial.summary.goodput))


def _normal(value: float) -> float:
    """The standard normal distribution."""
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))
