"""What each assignment of roles serves of a workload within its target: the router's formula, for
the machine's own coefficients. It says at which rates the grid is measured, and which fixed ratios
cannot be the best; what is served at those rates is simulated."""

from __future__ import annotations

import numpy as np

from benchmarks.split_grid.serve import NUM_WORKERS, always, cluster_of
from router.roles.capacity import capacity, work_rates
from sim.devices.fit import NAMES
from sim.machine import MachineModel
from sim.plan.traffic_profile import TrafficProfile

HOPELESS = 0.8
"""A fixed ratio is left out that is predicted to serve less than this share of the best one."""
FEWEST = 2
"""Fixed ratios that are simulated in any case."""


class Saturation:
    """Requests a second that eight workers serve in each assignment, as predicted."""

    def __init__(self, traffic: TrafficProfile, tpot_s: float, machine: MachineModel) -> None:
        table = cluster_of(always(1), tpot_s, machine).ledger.table
        rows = list(range(NUM_WORKERS))
        for name in NAMES:
            getattr(table, name)[rows] = getattr(machine, name)
        rates = work_rates(table, rows, traffic.workload(1.0, tpot_s), tpot_s)
        prompts, answers = float(rates.prompts_per_s[0]), float(rates.answers_per_s[0])
        numbers = range(NUM_WORKERS)
        self.mixed = [capacity(rates, np.array(rows) < number) for number in numbers]
        """By number of prefill workers, the others taking the prompts that are left."""
        self.fixed = [min(n * prompts, (NUM_WORKERS - n) * answers) for n in numbers]
        """By number of prefill workers, where every request is split."""

    @property
    def per_s(self) -> float:
        """The best assignment's."""
        return max(self.mixed)

    def hopeful(self) -> list[int]:
        """Numbers of prefill workers that could be the best fixed ratio, the likeliest first."""
        order = sorted(range(1, NUM_WORKERS), key=lambda number: -self.fixed[number])
        best = self.fixed[order[0]]
        return [
            number
            for place, number in enumerate(order)
            if place < FEWEST or self.fixed[number] >= HOPELESS * best
        ]
