"""Roles whose capacity model is wrong: changes that made it worse are undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from router.placing.fleet_table import Flags, FleetTable
from router.placing.workload import Workload
from router.roles.capacity import WorkRates, capacity, work_rates
from router.roles.controller import INTERVAL_S, RatesOf, RoleController
from router.roles.decision import describe
from tests.router.ledgers import Scene
from tests.router.test_roles import TPOT_S, fleet

pytestmark = pytest.mark.quick

PROMPT, ANSWER, DECODE_S = 2048, 128, 1.0


@dataclass(slots=True)
class Plant:
    """A fleet that serves what the true model says, whatever the controller's model is."""

    made: Scene
    controller: RoleController
    now: float = 0.0
    owed: float = 0.0
    by_s: list[float] = field(default_factory=list)
    """Share served in each interval."""

    def serve(self, per_s: float, seconds: float, prompt: int = PROMPT) -> float:
        """The share that was served."""
        begin = len(self.by_s)
        for _ in range(int(seconds / INTERVAL_S)):
            self._interval(per_s, prompt)
            change = self.controller.decide(self.made.ledger, self.now)
            if change is not None:
                self.made.ledger.set_role(change.ref, change.role)
        part = self.by_s[begin:]
        return sum(part) / len(part)

    def share_with(self, num_prefill: int, per_s: float) -> float:
        """The share that so many prefill workers would serve."""
        return min(1.0, self._true_capacity(PROMPT, np.arange(8) < num_prefill) / per_s)

    def _interval(self, per_s: float, prompt: int) -> None:
        ledger = self.made.ledger
        num = round(per_s * INTERVAL_S)
        for number in range(num):
            ledger.came(prompt, TPOT_S, self.made.hits, self.now + number * INTERVAL_S / num)
        self.now += INTERVAL_S
        prefills = ledger.table.prefills[:8]
        share = min(1.0, self._true_capacity(prompt, prefills) / per_s)
        self.owed += share * num
        while self.owed >= 1:
            self.owed -= 1
            ledger.answered("", ANSWER, DECODE_S)
        self.by_s.append(share)

    def _true_capacity(self, prompt: int, prefills: Flags) -> float:
        workload = Workload(
            num_requests=100,
            requests_per_s=1.0,
            uncached_tokens=prompt,
            cached_tokens=0.0,
            answer_tokens=ANSWER,
            tpot_s=TPOT_S,
        )
        return capacity(work_rates(self.made.ledger.table, range(8), workload, TPOT_S), prefills)


def scaled(prompts: float = 1.0, answers: float = 1.0) -> RatesOf:
    """A model that takes prefill and decode workers for so many times as fast as they are."""

    def rates_of(
        table: FleetTable, rows: Sequence[int], workload: Workload, tpot_s: float
    ) -> WorkRates:
        right = work_rates(table, rows, workload, tpot_s)
        return replace(
            right,
            prompts_per_s=prompts * right.prompts_per_s,
            answers_per_s=answers * right.answers_per_s,
        )

    return rates_of


WRONG: dict[str, RatesOf] = {
    "prompts take half": scaled(prompts=2.0),
    "prompts take twice": scaled(prompts=0.5),
    "answers take half": scaled(answers=2.0),
    "answers take twice": scaled(answers=0.5),
}


@pytest.mark.parametrize("rates_of", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("num_prefill", [0, 5])
def test_on_a_long_run_a_wrong_model_costs_at_most_two_percent_of_the_initial_roles(
    num_prefill: int, rates_of: RatesOf
) -> None:
    follows = Plant(fleet(num_prefill, 8 - num_prefill), RoleController(rates_of))
    for per_s, seconds in ((30, 30), (60, 400)):
        fixed = follows.share_with(num_prefill, per_s)
        assert follows.serve(per_s, seconds) >= 0.98 * fixed


def test_a_change_that_made_it_worse_is_undone_and_not_repeated_soon() -> None:
    follows = Plant(fleet(5, 3), RoleController(scaled(prompts=2.0)))
    best = follows.share_with(5, 60)
    follows.serve(60, 80)
    assert min(follows.by_s) < 0.95 * best, "the wrong model has changed roles"
    assert follows.serve(60, 60) == pytest.approx(best)
    assert any(decision.undoes for decision in follows.controller.history)
    assert "again: fewer requests were in time" in describe(follows.controller.history[-1])


def test_a_change_that_keeps_its_promise_stands() -> None:
    follows = Plant(fleet(2, 6), RoleController())
    assert follows.serve(55, 120) > 1.1 * follows.share_with(2, 55)
    assert not any(decision.undoes for decision in follows.controller.history)
