"""How many workers each pool wants: more at once, less after a while, a change of role first."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from router.placing.workload import Workload
from router.roles.attainment import Attainment, TargetCount
from router.roles.bottleneck import Sharing
from router.roles.scaling import (
    COOLDOWN_S,
    HOLD_S,
    MOST_CORRECTED,
    Scaler,
    ScalingView,
)
from tests.router.ledgers import Scene
from tests.router.test_bottleneck import workload
from tests.router.test_roles import COSTS, fleet
from wire.identity import Role, WorkerRef

pytestmark = pytest.mark.quick

EVERY_S = 5.0


class Play:
    """A scaler, and a fleet that `grows` as it wants at once, or not at all."""

    def __init__(
        self,
        num_prefill: int,
        num_decode: int,
        sharing: Sharing = Sharing.BY_ROLE,
        start_s: float = 60.0,
        *,
        grows: bool = False,
    ) -> None:
        self.grows = grows
        self.scene = fleet(num_prefill, num_decode)
        self.scaler = Scaler(start_s)
        self.sharing = sharing
        self.now = 0.0

    @property
    def homes(self) -> dict[WorkerRef | None, Role]:
        refs = [ref for ref in self.scene.ledger.table.refs if ref is not None]
        return {ref: Role(ref.worker_id.partition("-")[0]) for ref in refs}

    def decide(
        self, comes: Workload, *, num_waiting: int = 0, met: int | None = None
    ) -> dict[Role, int]:
        """One decision; `met` of 100 requests have met their TTFT target."""
        count = TargetCount() if met is None else TargetCount(100, met)
        view = ScalingView(
            table=self.scene.ledger.table,
            homes=self.homes,
            workload=comes,
            sharing=self.sharing,
            num_waiting=num_waiting,
            attainment=Attainment(window_s=30, num_ended=count.num, ttft=count),
        )
        self.now += EVERY_S
        wanted = self.scaler.decide(view, self.now)
        assert wanted is not None
        if self.grows:
            self._start(wanted.counts)
        return wanted.counts

    def _start(self, wanted: dict[Role, int]) -> None:
        there = Counter(self.homes.values())
        for role, count in wanted.items():
            for number in range(there[role], count):
                self.scene.add(f"{role.value}-{number}", role, costs=COSTS)

    def for_s(self, seconds: float, comes: Workload, **more: int) -> list[int]:
        """Sums of the numbers wanted, one for each decision."""
        return [sum(self.decide(comes, **more).values()) for _ in range(int(seconds / EVERY_S))]


def test_more_load_wants_more_workers_at_once() -> None:
    play = Play(2, 2)
    play.for_s(30, workload(2048, 128, 10))
    wanted = play.decide(workload(2048, 128, 300))
    assert sum(wanted.values()) > 8


@pytest.mark.parametrize(
    ("num_prefill", "num_decode", "short"), [(1, 7, Role.PREFILL), (7, 1, Role.DECODE)]
)
def test_where_prompts_and_answers_are_apart_the_pool_that_binds_grows(
    num_prefill: int, num_decode: int, short: Role
) -> None:
    play = Play(num_prefill, num_decode, Sharing.APART)
    before = {Role.PREFILL: num_prefill, Role.DECODE: num_decode}
    wanted = play.decide(workload(2048, 128, 16))
    assert {role for role, count in wanted.items() if count > before[role]} == {short}


def test_a_change_of_role_is_tried_before_a_start() -> None:
    comes = workload(2048, 128, 35)
    assert Play(1, 7, Sharing.APART).decide(comes)[Role.PREFILL] > 1
    assert Play(1, 7, Sharing.BY_ROLE).decide(comes) == {Role.PREFILL: 1, Role.DECODE: 7}


def test_less_load_lets_workers_leave_one_by_one_and_only_after_a_while() -> None:
    play = Play(4, 4)
    play.for_s(60, workload(2048, 128, 30))
    totals = play.for_s(HOLD_S + 300, workload(2048, 128, 1))
    held = int(HOLD_S / EVERY_S) - 1
    assert set(totals[:held]) == {8}
    assert totals[-1] == 2
    steps = [before - after for before, after in itertools.pairwise(totals)]
    assert set(steps) == {0, 1}
    leaves = [number for number, step in enumerate(steps) if step]
    gaps = [b - a for a, b in itertools.pairwise(leaves)]
    assert min(gaps) * EVERY_S >= COOLDOWN_S


def test_a_worker_that_takes_long_to_start_is_kept_for_longer() -> None:
    play = Play(4, 4, start_s=200)
    play.for_s(60, workload(2048, 128, 30))
    assert set(play.for_s(180, workload(2048, 128, 1))) == {8}


def test_a_hold_time_as_short_as_the_interval_of_decisions_lets_workers_leave() -> None:
    """Decisions are a little more than an interval apart."""
    play = Play(1, 3)
    play.scaler = Scaler(start_s=EVERY_S, hold_s=EVERY_S)
    for _ in range(20):
        play.now += 0.01
        totals = play.for_s(EVERY_S, workload(2048, 128, 1))
    assert totals[-1] == 2


def test_a_load_that_comes_and_goes_wants_the_workers_of_its_peaks() -> None:
    play, totals = Play(4, 4), set[int]()
    for _ in range(10):
        totals.update(
            play.for_s(25, workload(2048, 128, 34)), play.for_s(25, workload(2048, 128, 1))
        )
    assert len(totals) == 1


def test_requests_that_wait_are_work_too() -> None:
    quiet, waits = Play(2, 2), Play(2, 2)
    comes = workload(2048, 128, 10)
    assert sum(waits.decide(comes, num_waiting=2000).values()) > sum(quiet.decide(comes).values())


def test_targets_that_are_missed_correct_the_prediction_and_targets_that_are_met_forgive() -> None:
    play, comes = Play(4, 4, grows=True), workload(2048, 128, 30)
    assert play.for_s(30, comes, met=99)[-1] == 8
    assert play.for_s(200, comes, met=60)[-1] > 8
    assert 1 < play.scaler.correction <= MOST_CORRECTED
    play.for_s(600, comes, met=99)
    assert play.scaler.correction == 1.0


def test_while_workers_start_late_requests_correct_nothing() -> None:
    play, comes = Play(1, 1), workload(2048, 128, 40)
    wanted = play.for_s(100, comes, met=10)
    assert play.scaler.correction == 1.0
    assert len(set(wanted)) == 1


def test_workers_that_never_come_are_not_counted_on() -> None:
    """As where a pool is as large as it may be: when the load falls, it shrinks at once."""
    play = Play(1, 1)
    most = max(play.for_s(30, workload(2048, 128, 60)))
    assert most > 4
    assert play.for_s(60 + 60 + HOLD_S, workload(2048, 128, 1))[-1] <= 2


def test_a_pool_of_one_role_grows_alone() -> None:
    play = Play(0, 2, Sharing.SHARED)
    assert set(play.decide(workload(2048, 128, 60))) == {Role.DECODE}


def test_nothing_is_wanted_before_workers_have_told_their_costs() -> None:
    made = Scene()
    made.add("decode-0", Role.DECODE)
    view = ScalingView(
        table=made.ledger.table,
        homes={WorkerRef("decode-0", 1): Role.DECODE},
        workload=workload(2048, 128, 60),
        sharing=Sharing.SHARED,
        attainment=Attainment(window_s=30),
    )
    assert Scaler().decide(view, 0.0) is None
    made.tell(WorkerRef("decode-0", 1), costs=COSTS)
    assert Scaler().decide(view, 0.0) is not None


def test_one_worker_of_each_role_stays() -> None:
    play = Play(2, 2, Sharing.APART)
    play.for_s(600, workload(2048, 128, 0.0))
    assert play.decide(workload(2048, 128, 0.0)) == {Role.PREFILL: 1, Role.DECODE: 1}
