"""Decides how many workers each pool wants; pure, time is an argument.

The numbers are reactive: what comes and waits now, against what workers serve by the formula of
router.roles.capacity, corrected by the attainment of targets. NVIDIA's simulations of its planner
(DynoSim, 2026) found that reacting every 5 to 10 s serves better than predicting traffic does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec
import numpy as np

from router.placing.fleet_table import FleetTable
from router.placing.workload import Workload
from router.roles.attainment import Attainment
from router.roles.bottleneck import NO_TARGET_S, Sharing, served
from router.roles.capacity import WorkRates, capacity_by_count, work_rates
from wire.identity import Role, WorkerRef

UP_LOAD = 0.75
"""Share of the capacity from which workers are added: arrivals are bursty."""
DOWN_LOAD = 0.6
"""Share of the capacity that the workers which stay may have when one leaves."""
SMOOTH_S = 15.0
"""Time over which the rate of requests is averaged."""
HOLD_S = 60.0
"""Time for which fewer workers have to be enough before one leaves; the start-up time if that is
longer, since a worker that leaves too early is missed for so long."""
COOLDOWN_S = 15.0
"""Time between two workers of a model that leave."""
CATCH_UP_S = 30.0
"""Time in which requests that wait should be served."""
SCALING_S = 30.0
"""Window of the attainment by which workers are added."""
GOAL = 0.95
"""Attainment below which the prediction is taken to be too good."""
LEAST_ENDED = 20
"""Requests with a target by which attainment is judged."""
CORRECT_BY = 1.15
"""Factor of one correction of the prediction."""
MOST_CORRECTED = 2.0
MOST_WORKERS = 4096
MOST_GROWTH = 4
"""Workers of one decision at most, as a multiple of those that serve."""


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """What one decision is based on."""

    table: FleetTable
    homes: Mapping[WorkerRef | None, Role]
    """Roles of the workers' pools, whatever role they have now."""
    workload: Workload
    sharing: Sharing
    num_waiting: int = 0
    """Requests that wait for their first token, here."""
    attainment: Attainment


class WantedWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """Number of workers by the role of their pool, and why."""

    counts: dict[Role, int]
    why: str


class _Rates(msgspec.Struct, frozen=True):
    """The mean worker of each pool's role: prompts/s, answers/s, weight of a prompt."""

    by_role: dict[Role, tuple[float, float, float]]
    sharing: Sharing

    def served(self, counts: Mapping[Role, int]) -> float:
        """Requests a second of so many workers; of roles that follow, in their best assignment:
        a change of role is tried before a start."""
        roles = [role for role in counts for _ in range(counts[role])]
        if not roles:
            return 0.0
        columns = np.array([self.by_role[role] for role in roles]).T
        rates = WorkRates(*columns)
        if self.sharing is Sharing.BY_ROLE:
            order = np.argsort(-columns[0] / np.maximum(columns[1], 1e-9), kind="stable")
            return float(capacity_by_count(rates, order.tolist()).max())
        prefills = np.array([role is Role.PREFILL for role in roles])
        if self.sharing is Sharing.SHARED:
            prefills[:] = False
        return served(rates, prefills, self.sharing)


class Scaler:
    """Keeps what one model wants: more at once, less only after a while and one by one."""

    def __init__(self, start_s: float = 60.0, hold_s: float = HOLD_S) -> None:
        """`start_s` is how long a worker takes to start; see HOLD_S for `hold_s`."""
        self._start_s = start_s
        self._hold_s = max(hold_s, start_s)
        self._rates: deque[tuple[float, float]] = deque()
        self._demands: deque[tuple[float, float]] = deque()
        self._wanted: WantedWorkers | None = None
        self._added_s = self._left_s = self._corrected_s = -1e9
        self.correction = 1.0
        """Factor by which more is needed than predicted."""

    @property
    def wanted(self) -> WantedWorkers | None:
        """The last decision; None until there was one."""
        return self._wanted

    def decide(self, view: ScalingView, now: float) -> WantedWorkers | None:
        """The numbers wanted now; None while nothing is known. Call every few seconds."""
        present = _present(view)
        if not present or not view.table.all_calibrated:
            return self._wanted
        demand = self._demand(view, now)
        self._correct(view, present, now)
        rates = _mean_rates(view)
        counts = self._counts(present, now)
        grown = _grown(rates, counts, self.correction * demand, sum(present.values()))
        if grown != counts:
            self._added_s = now
        else:
            grown = self._shrunk(rates, counts, now)
        self._wanted = WantedWorkers(counts=grown, why=self._why(view, rates, present, demand))
        return self._wanted

    def _counts(self, present: dict[Role, int], now: float) -> dict[Role, int]:
        """The numbers to start from: those wanted last. Workers that should have come by now will
        not come, as where a bound is reached, and are not counted on."""
        if self._wanted is None:
            return dict(present)
        counts = {**present, **self._wanted.counts}
        if now < self._added_s + 2 * self._start_s:
            return counts
        return {role: min(count, present.get(role, 0) or 1) for role, count in counts.items()}

    def _demand(self, view: ScalingView, now: float) -> float:
        """Requests a second to be served: what comes, and what waits."""
        self._rates.append((now, view.workload.requests_per_s))
        while self._rates[0][0] < now - SMOOTH_S:
            self._rates.popleft()
        comes = sum(rate for _, rate in self._rates) / len(self._rates)
        demand = comes + view.num_waiting / CATCH_UP_S
        self._demands.append((now, demand))
        # The one before the hold time began stays: it shows that there was one.
        while len(self._demands) > 1 and self._demands[1][0] <= now - self._hold_s:
            self._demands.popleft()
        return demand

    def _correct(self, view: ScalingView, present: Mapping[Role, int], now: float) -> None:
        """Attainment corrects the prediction, but not while workers start or have just come: what
        ends then was late before."""
        shares = [
            count.num_met / count.num
            for count in (view.attainment.ttft, view.attainment.tpot)
            if count.num >= LEAST_ENDED
        ]
        window_s = view.attainment.window_s
        if self._wanted is None or self._is_growing(present, now):
            self._corrected_s = now
        if not shares or now < self._corrected_s + window_s:
            return
        if min(shares) < GOAL:
            self.correction = min(MOST_CORRECTED, self.correction * CORRECT_BY)
            self._corrected_s = now
        elif self.correction > 1.0:
            self.correction = max(1.0, self.correction / CORRECT_BY)
            self._corrected_s = now

    def _is_growing(self, present: Mapping[Role, int], now: float) -> bool:
        """Workers that were asked for are still to come."""
        wanted = {} if self._wanted is None else self._wanted.counts
        missing = any(present.get(role, 0) < count for role, count in wanted.items())
        return missing and now < self._added_s + 2 * self._start_s

    def _shrunk(self, rates: _Rates, counts: dict[Role, int], now: float) -> dict[Role, int]:
        """One worker less, if the others had served all that came for a while."""
        is_known = now - self._demands[0][0] >= self._hold_s
        if not is_known or now < self._left_s + COOLDOWN_S:
            return counts
        most = self.correction * max(demand for _, demand in self._demands)
        fewer = [{**counts, role: count - 1} for role, count in counts.items() if count > 1]
        best = max(fewer, key=rates.served, default=None)
        if best is None or most > DOWN_LOAD * rates.served(best):
            return counts
        self._left_s = now
        return best

    def _why(
        self, view: ScalingView, rates: _Rates, present: Mapping[Role, int], demand: float
    ) -> str:
        comes = view.workload.requests_per_s
        waits = f", {view.num_waiting} wait" if view.num_waiting else ""
        corrected = f", corrected by {self.correction:.2f}" if self.correction > 1 else ""
        return (
            f"{comes:.1f} requests/s come{waits}, those that serve now can take "
            f"{rates.served(present):.1f}{corrected}"
        )


def _present(view: ScalingView) -> dict[Role, int]:
    """Ready workers by the role of their pool."""
    counts: dict[Role, int] = {}
    for row in np.flatnonzero(view.table.ready).tolist():
        role = view.homes.get(view.table.refs[row])
        if role is not None:
            counts[role] = counts.get(role, 0) + 1
    return counts


def _mean_rates(view: ScalingView) -> _Rates:
    table, workload = view.table, view.workload
    rows = np.flatnonzero(table.ready).tolist()
    tpot_s = NO_TARGET_S if workload.tpot_s is None else workload.tpot_s
    rates = work_rates(table, rows, workload, tpot_s)
    columns = np.array([rates.prompts_per_s, rates.answers_per_s, rates.prompt_weight])
    homes = [view.homes.get(table.refs[row]) for row in rows]
    means: dict[Role, tuple[float, float, float]] = {}
    for role in Role:
        mine = np.array([home is role for home in homes])
        mean = columns[:, mine if mine.any() else slice(None)].mean(axis=1)
        means[role] = (float(mean[0]), float(mean[1]), float(mean[2]))
    return _Rates(means, view.sharing)


def _grown(
    rates: _Rates, counts: dict[Role, int], demand: float, num_present: int
) -> dict[Role, int]:
    """More workers until they serve the demand with room to spare; each where it gives most, of
    equals in the smaller pool."""
    most = min(MOST_WORKERS, max(sum(counts.values()), MOST_GROWTH * num_present + MOST_GROWTH))
    while UP_LOAD * rates.served(counts) < demand and sum(counts.values()) < most:
        more = [{**counts, role: count + 1} for role, count in counts.items()]
        smaller = min(counts, key=lambda role: counts[role])
        counts = max(more, key=lambda it: (round(rates.served(it), 6), it[smaller]))
    return counts
