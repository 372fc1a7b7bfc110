"""Decides which worker takes another role, one at a time; pure, time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from router.placing.fleet_table import Flags, FleetTable
from router.placing.ledger import Ledger
from router.roles.capacity import (
    WorkRates,
    capacity,
    capacity_by_change,
    capacity_by_count,
    work_rates,
)
from router.roles.decision import Decision, Outlook, RoleChange
from wire.identity import Role

INTERVAL_S = 0.5
"""Interval between two decisions."""
MODEL_ERROR = 0.05
"""Share by which another assignment has to be better: predictions err."""
URGENT = 0.2
"""A gain of this share is taken at once; a smaller one when two decisions in a row ask for it."""
LEAST_LOAD = 0.1
"""Share of the capacity in use below which roles stay: every assignment serves that."""
LEAST_SEEN = 8
"""Requests from which the workload is known."""
NUM_REMEMBERED = 20
"""Decisions that the history keeps."""


class RoleController:
    """Compares the present assignment with all that have the best prefill workers first."""

    def __init__(self) -> None:
        self.outlook: Outlook | None = None
        """The newest comparison."""
        self._history: deque[Decision] = deque(maxlen=NUM_REMEMBERED)
        self._asked = False
        """Whether the last decision asked for a change."""

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
        rates = work_rates(table, rows, workload, workload.tpot_s)
        present: Flags = table.prefills[rows]
        wanted = _best(table, rows, rates)
        self.outlook = view = Outlook(
            requests_per_s=workload.requests_per_s,
            present=capacity(rates, present),
            best=capacity(rates, wanted),
            num_prefill=int(wanted.sum()),
        )
        if not self._is_due(view):
            return None
        change = _first_change(table, rows, rates, present, wanted)
        if change is not None:
            self._history.append(Decision(time_s=now, change=change, outlook=view))
        return change

    def _is_due(self, view: Outlook) -> bool:
        """The gain exceeds the error of the prediction, and is no passing one."""
        asked_before, self._asked = self._asked, False
        idle = view.requests_per_s < LEAST_LOAD * view.present
        if idle or view.best <= view.present * (1 + MODEL_ERROR):
            return False
        self._asked = True
        return asked_before or view.best > view.present * (1 + URGENT)


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
    changes = np.flatnonzero(present != wanted)
    if not len(changes):
        return None
    position = int(changes[np.argmax(capacity_by_change(rates, present, changes.tolist()))])
    ref = table.refs[rows[position]]
    assert ref is not None, "a row of nobody is never ready"
    return RoleChange(ref, Role.PREFILL if wanted[position] else Role.DECODE)
