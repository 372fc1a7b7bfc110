"""Decides which worker takes another role, one at a time; pure, time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from router.placing.fleet_table import Flags, FleetTable
from router.placing.ledger import Ledger
from router.placing.workload import Workload
from router.roles.capacity import (
    WorkRates,
    capacity,
    capacity_by_change,
    capacity_by_count,
    work_rates,
)
from router.roles.decision import Decision, Outlook, RoleChange
from router.roles.guard import ChangeKind, Guard, Situation
from wire.identity import Role, WorkerRef

INTERVAL_S = 0.5
"""Interval between two decisions, in seconds: long enough for workers to learn what steps take
under a load that has just come."""
CONFIRMED_S = 0.5
"""Time for which decisions have to ask for a change that is not urgent."""
REST_S = 2.0
"""Time for which a worker keeps a role that it has taken, and in which the opposite change of
another one is not urgent: what has been learned since may be an error of the moment."""
MODEL_ERROR = 0.05
"""Share by which another assignment has to be better: predictions err."""
URGENT = 0.2
"""A gain of this share is urgent: it is taken at once. A smaller one has to last CONFIRMED_S."""
LEAST_LOAD = 0.1
"""Share of the capacity in use below which roles stay: every assignment serves that."""
LEAST_SEEN = 8
"""Requests from which the workload is known."""
LONGEST_LIFETIME_S = 20.0
"""Longest duration of answers that the guard waits for."""
NUM_REMEMBERED = 20
"""Decisions that the history keeps."""


RatesOf = Callable[[FleetTable, Sequence[int], Workload, float], WorkRates]
"""The capacity model: rates of rows, for a workload and a target per output token in seconds."""


class RoleController:
    """Compares the present assignment with all that have the best prefill workers first."""

    def __init__(self, rates_of: RatesOf = work_rates) -> None:
        self.outlook: Outlook | None = None
        """The newest comparison."""
        self._rates_of = rates_of
        self._guard = Guard()
        self._history: deque[Decision] = deque(maxlen=NUM_REMEMBERED)
        self._asked_s: float | None = None
        """Time since which every decision has asked for a change; None if the last one did not."""

    @property
    def history(self) -> Sequence[Decision]:
        """The last changes, oldest first."""
        return tuple(self._history)

    def decide(self, ledger: Ledger, now: float) -> RoleChange | None:
        """The next change; None where roles stay. Call every INTERVAL_S.

        Without a target for the time per output token roles stay as configured: splitting protects
        that target, and costs throughput without one.
        """
        table, workload = ledger.table, ledger.workload(now)
        if workload is None or workload.tpot_s is None or workload.num_requests < LEAST_SEEN:
            return None
        rows = [int(row) for row in np.flatnonzero(table.ready)]
        if len(rows) < 2 or not table.all_calibrated:
            return None
        rates = self._rates_of(table, rows, workload, workload.tpot_s)
        present: Flags = table.prefills[rows]
        wanted = _best(table, rows, rates)
        self.outlook = view = Outlook(
            requests_per_s=workload.requests_per_s,
            present=capacity(rates, present),
            best=capacity(rates, wanted),
            num_prefill=int(wanted.sum()),
        )
        at = _situation(table, rows, workload, view.present, now)
        self._guard.observe(at, (ledger.meter.num_seen, ledger.meter.num_in_time))
        if self._guard.returns_to is not None:
            former = np.array([table.refs[row] in self._guard.returns_to for row in rows])
            return self._remember(_first_change(table, rows, rates, present, former), now, True)
        wanted = np.where(self._rest(table, rows, now), present, wanted)
        change = _first_change(table, rows, rates, present, wanted)
        if change is None or self._guard.holds or not self._is_due(table, change, now):
            return None
        self._guard.changed(at, _kind(table, change), view.best / max(view.present, 1e-9) - 1)
        return self._remember(change, now)

    def _rest(self, table: FleetTable, rows: list[int], now: float) -> Flags:
        """Flags the workers that have taken their role only now."""
        lately = {it.change.ref for it in self._history if it.time_s > now - REST_S}
        return np.array([table.refs[row] in lately for row in rows])

    def _is_due(self, table: FleetTable, change: RoleChange, now: float) -> bool:
        """The gain exceeds the error of the prediction, and is no passing one."""
        view, asked_s, self._asked_s = self.outlook, self._asked_s, None
        assert view is not None
        idle = view.requests_per_s < LEAST_LOAD * view.present
        error = MODEL_ERROR + self._guard.error(_kind(table, change), now)
        if idle or view.best <= view.present * (1 + error):
            return False
        self._asked_s = now if asked_s is None else asked_s
        last = self._history[-1] if self._history else None
        turns_back = (
            last is not None and last.change.role is not change.role and now < last.time_s + REST_S
        )
        urgent = not turns_back and view.best > view.present * (1 + URGENT)
        return urgent or now >= self._asked_s + CONFIRMED_S

    def _remember(
        self, change: RoleChange | None, now: float, undoes: bool = False
    ) -> RoleChange | None:
        assert self.outlook is not None
        if change is not None:
            decision = Decision(time_s=now, change=change, outlook=self.outlook, undoes=undoes)
            self._history.append(decision)
        return change


def _situation(
    table: FleetTable, rows: list[int], workload: Workload, predicted: float, now: float
) -> Situation:
    prefills, ready = set[WorkerRef](), set[WorkerRef]()
    for row in rows:
        ref = table.refs[row]
        assert ref is not None, "a row of nobody is never ready"
        ready.add(ref)
        if table.prefills[row]:
            prefills.add(ref)
    lifetime_s = min(table.lifetime_s, LONGEST_LIFETIME_S)
    return Situation(frozenset(prefills), frozenset(ready), workload, predicted, lifetime_s, now)


def _kind(table: FleetTable, change: RoleChange) -> ChangeKind:
    row = table.row(change.ref)
    assert row is not None, "only workers that are ready change"
    return change.role, int(table.kind[row])


def _best(table: FleetTable, rows: list[int], rates: WorkRates) -> Flags:
    """Flags the prefill workers of the best assignment; one worker decodes at least."""
    order = _by_advantage(table, rows, rates)
    count = int(np.argmax(capacity_by_count(rates, order)))
    prefills: Flags = np.zeros(len(rows), bool)
    prefills[order[:count]] = True
    return prefills


def _by_advantage(table: FleetTable, rows: list[int], rates: WorkRates) -> list[int]:
    """Positions in `rows`: those first that prefill best for what they decode; of about equal ones
    those that are prefill workers now, then those with the fewest sequences."""
    advantage = np.log(rates.prompts_per_s / np.maximum(rates.answers_per_s, 1e-9)).round(1)
    keys = (table.num_decoding[rows], ~table.prefills[rows], -advantage)
    order: list[int] = np.lexsort(keys).tolist()
    return order


def _first_change(
    table: FleetTable, rows: list[int], rates: WorkRates, present: Flags, wanted: Flags
) -> RoleChange | None:
    """The change of one worker, among those that lead to `wanted`, that serves most."""
    differs = present != wanted
    if present.sum() == len(rows) - 1:
        differs &= present  # the last decode worker stays one
    changes = np.flatnonzero(differs)
    if not len(changes):
        return None
    position = int(changes[np.argmax(capacity_by_change(rates, present, changes.tolist()))])
    ref = table.refs[rows[position]]
    assert ref is not None, "a row of nobody is never ready"
    return RoleChange(ref, Role.PREFILL if wanted[position] else Role.DECODE)
