"""Roles follow the load: the capacity of assignments, the controller, and where requests go."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from router.placing.candidates import step_limit_s
from router.placing.cost_model import Hits
from router.placing.placement import TPOT_SHARE
from router.placing.placement_request import Placement, PlacementRequest, Slo
from router.placing.worker_load import SILENT_REPORTS
from router.placing.workload import Workload, WorkloadMeter
from router.roles.capacity import (
    WorkRates,
    capacity,
    capacity_by_change,
    capacity_by_count,
    work_rates,
)
from router.roles.controller import CONFIRMED_S, LEAST_SEEN, REST_S, RoleController
from router.roles.decision import RoleChange, describe
from tests.router.ledgers import Scene
from wire.identity import Role, WorkerRef
from wire.reports import StepCosts, WorkerTotals

pytestmark = pytest.mark.quick

COSTS = StepCosts(
    step_s=6e-3, sequence_s=3e-5, context_token_s=4.4e-8, prompt_token_s=3.2e-5, prompt_pair_s=0.0
)
TPOT_S = 9e-3


def fleet(num_prefill: int, num_decode: int, costs: StepCosts = COSTS) -> Scene:
    made = Scene()
    for role, count in ((Role.PREFILL, num_prefill), (Role.DECODE, num_decode)):
        for number in range(count):
            made.add(f"{role.value}-{number}", role, costs=costs)
    return made


def load(made: Scene, prompt: int, answer: int, per_s: float, tpot_s: float | None) -> float:
    """Requests that come for ten seconds; the time at their end."""
    for number in range(int(10 * per_s)):
        made.ledger.came(prompt, tpot_s, made.hits, number / per_s)
        made.ledger.answered("", answer, 1.0)
    return 10.0


def decide_until_calm(made: Scene, now: float) -> list[tuple[str, Role]]:
    """All changes of a controller, each carried out, until it has none."""
    controller, changes, calm = RoleController(), list[tuple[str, Role]](), 0
    while calm < 3:
        change = controller.decide(made.ledger, now)
        now += CONFIRMED_S
        calm = 0 if change else calm + 1
        if change is not None:
            made.ledger.set_role(change.ref, change.role)
            changes.append((change.ref.worker_id, change.role))
        assert len(changes) < 20, "the roles never come to rest"
    return changes


def num_prefill(made: Scene) -> int:
    return int(made.ledger.table.prefills.sum())


def workload(prompt: int, answer: int, tpot_s: float) -> Workload:
    return Workload(
        num_requests=100,
        requests_per_s=1.0,
        uncached_tokens=prompt,
        cached_tokens=0,
        answer_tokens=answer,
        tpot_s=tpot_s,
    )


def served(prompt: int, answer: int, tpot_s: float) -> list[float]:
    """Requests a second by the number of prefill workers among eight."""
    made = fleet(4, 4)
    rates = work_rates(made.ledger.table, range(8), workload(prompt, answer, tpot_s), tpot_s)
    return [capacity(rates, np.arange(8) < count) for count in range(8)]


def test_what_a_sequence_adds_to_a_step_is_told_by_decode_workers() -> None:
    made = fleet(0, 2)
    guesses = msgspec.structs.replace(COSTS, sequence_s=1e-3)
    for number in range(4):
        made.add(f"prefill-{number}", Role.PREFILL, costs=guesses)
    rates = work_rates(made.ledger.table, range(6), workload(2048, 128, TPOT_S), TPOT_S)
    alone = work_rates(fleet(0, 2).ledger.table, range(2), workload(2048, 128, TPOT_S), TPOT_S)
    assert rates.answers_per_s == pytest.approx(alone.answers_per_s[0])


def test_without_prefill_workers_each_serves_what_the_formula_says() -> None:
    p, d = 2048 * 3.2e-5, 128 * (3e-5 + 4.4e-8 * (2048 + 64))
    left = 1 - 6e-3 / (TPOT_SHARE * step_limit_s(TPOT_S, 128))
    assert served(2048, 128, TPOT_S)[0] == pytest.approx(8 * left / (p + d), rel=0.01)


def test_splitting_serves_far_more_under_a_strict_target_and_less_under_a_loose_one() -> None:
    strict, loose = served(2048, 128, 9e-3), served(500, 500, 90e-3)
    assert max(strict) > 1.5 * strict[0]
    assert max(loose) == loose[0]


def test_what_no_prefill_worker_takes_is_computed_beside_answers() -> None:
    by_count = served(2048, 128, TPOT_S)
    assert by_count[1] > by_count[0]
    prompts_of_one = 1 / (2048 * 3.2e-5 + 2048 / 512 * 6e-3)
    assert by_count[1] > prompts_of_one, "one prefill worker is no bound"


def test_many_assignments_at_once_have_the_capacities_that_they_have_one_by_one() -> None:
    draw = np.random.default_rng(3)
    rates = WorkRates(draw.uniform(5, 20, 9), draw.uniform(0, 9, 9), draw.uniform(0.1, 3, 9))
    order = draw.permutation(9).tolist()
    by_count = [capacity(rates, np.isin(np.arange(9), order[:count])) for count in range(9)]
    assert capacity_by_count(rates, order) == pytest.approx(by_count)
    present = np.arange(9) % 3 == 0
    changed = [capacity(rates, present ^ (np.arange(9) == position)) for position in (0, 4, 8)]
    assert capacity_by_change(rates, present, [0, 4, 8]) == pytest.approx(changed)


def test_workers_become_prefill_workers_one_by_one_until_the_best_assignment() -> None:
    made = fleet(1, 7)
    changes = decide_until_calm(made, load(made, 2048, 128, 30, TPOT_S))
    best = int(np.argmax(served(2048, 128, TPOT_S)))
    assert [role for _, role in changes] == [Role.PREFILL] * len(changes)
    assert abs(num_prefill(made) - best) <= 1, "the last step may be within the model's error"


def test_long_answers_turn_them_back() -> None:
    made = fleet(6, 2)
    changes = decide_until_calm(made, load(made, 256, 512, 20, 12e-3))
    assert changes
    assert {role for _, role in changes} == {Role.DECODE}


@pytest.mark.parametrize(
    ("prompt", "per_s", "tpot_s"),
    [
        pytest.param(2048, 30, None, id="no request has a target"),
        pytest.param(2048, 1, TPOT_S, id="there is hardly any load"),
        pytest.param(2048, 0.5, TPOT_S, id="few requests have come"),
    ],
)
def test_roles_stay_as_configured(prompt: int, per_s: float, tpot_s: float | None) -> None:
    made = fleet(1, 7)
    assert decide_until_calm(made, load(made, prompt, 128, per_s, tpot_s)) == []


def test_a_small_gain_has_to_last() -> None:
    made = fleet(3, 5)
    now = load(made, 2048, 160, 30, TPOT_S)
    controller = RoleController()
    first = controller.decide(made.ledger, now)
    view = controller.outlook
    assert view is not None
    assert 1.05 < view.best / view.present < 1.2, "the case is a small gain"
    assert first is None
    assert controller.decide(made.ledger, now + CONFIRMED_S / 2) is None
    assert controller.decide(made.ledger, now + CONFIRMED_S) is not None


def test_a_worker_keeps_a_role_that_it_has_just_taken() -> None:
    made, controller = fleet(0, 2), RoleController()
    now = load(made, 2048, 128, 15, TPOT_S)
    change = controller.decide(made.ledger, now)
    assert change is not None
    made.ledger.set_role(change.ref, change.role)
    for number in range(300):
        made.ledger.came(64, TPOT_S, made.hits, now + number / 1000)
        made.ledger.answered("", 1024, 1.0)
    soon = [controller.decide(made.ledger, now + each) for each in (0.5, 1.0, 1.5)]
    assert soon == [None, None, None]
    later = [controller.decide(made.ledger, now + REST_S + each) for each in (0.5, 1.0)]
    assert RoleChange(change.ref, Role.DECODE) in later


def test_the_worker_that_prefills_best_for_what_it_decodes_changes_first() -> None:
    """A box of much compute beside one of much bandwidth."""
    made = fleet(0, 2)
    compute = StepCosts(
        step_s=6e-3,
        sequence_s=3e-4,
        context_token_s=4.4e-7,
        prompt_token_s=1e-5,
        prompt_pair_s=0.0,
    )
    made.add("compute", Role.DECODE, costs=compute)
    changes = decide_until_calm(made, load(made, 2048, 128, 15, TPOT_S))
    assert changes[0] == ("compute", Role.PREFILL)


def test_the_history_tells_the_last_changes_and_why() -> None:
    made, controller = fleet(1, 7), RoleController()
    now = load(made, 2048, 128, 30, TPOT_S)
    change = controller.decide(made.ledger, now)
    (decision,) = controller.history
    assert (decision.time_s, decision.change) == (now, change)
    told = describe(decision)
    assert told.startswith(f"{decision.change.ref.worker_id} becomes a prefill worker: ")
    assert "29.9 requests/s come" in told
    assert told.endswith(f"prefill workers would serve {decision.outlook.best:.1f}")


def test_one_worker_always_decodes() -> None:
    made = fleet(1, 1)
    decide_until_calm(made, load(made, 100_000, 2, 5, TPOT_S))
    assert num_prefill(made) == 1


def test_the_meter_knows_the_rate_before_its_window_is_over() -> None:
    meter = WorkloadMeter()
    for number in range(20):
        meter.observe(100, 0, None, number / 10)
    found = meter.workload(50, 1.9)
    assert found is not None
    assert found.requests_per_s == pytest.approx(10, rel=0.1)
    assert found.tpot_s is None


def test_the_meter_forgets_what_came_before() -> None:
    meter = WorkloadMeter()
    for number in range(100):
        meter.observe(4000, 100, 0.01, number)
    for number in range(100, 400):
        meter.observe(10, 0, 0.05, number)
    found = meter.workload(50, 400)
    assert found is not None
    assert found.uncached_tokens == pytest.approx(10, rel=0.5)
    assert found.tpot_s == pytest.approx(0.05, rel=0.01)


def test_while_longer_answers_have_not_ended_the_meter_knows_that_they_are_longer() -> None:
    meter = WorkloadMeter()
    for number in range(40):
        meter.observe(100, 0, None, number / 10)
        meter.generated(200)
        if number % 4 == 0:
            meter.answered(200, 1.0)
    assert meter.answer_tokens(50.0) == pytest.approx((50 * 800) ** 0.5, rel=0.1)


def test_in_a_steady_state_answers_are_as_long_as_those_that_end() -> None:
    meter = WorkloadMeter()
    for number in range(40):
        meter.observe(100, 0, None, number / 10)
        meter.generated(50)
        meter.answered(50, 0.3)
    assert meter.answer_tokens(50.0) == pytest.approx(50.0)


def request(slo: Slo, prompt: int = 2048) -> PlacementRequest:
    return PlacementRequest(
        key="k", num_prompt_tokens=prompt, num_tokens=prompt + 128, slo=slo, roles_follow=True
    )


def placed(made: Scene, wanted: PlacementRequest) -> tuple[str, str | None]:
    found = made.ledger.place(wanted, made.hits, 0.0)
    assert isinstance(found, Placement)
    home = found.destination
    return found.first.worker_id, None if home is None else home.worker_id


def test_where_roles_follow_the_load_prompts_go_to_prefill_workers() -> None:
    assert placed(fleet(1, 1), request(Slo(1.0, TPOT_S))) == ("prefill-0", "decode-0")


def test_a_short_prompt_that_is_mostly_cached_stays_with_its_decode_worker() -> None:
    made = fleet(1, 0)
    made.add("decode-0", Role.DECODE, costs=COSTS, hits=2040)
    assert placed(made, request(Slo(1.0, TPOT_S))) == ("decode-0", None)


def test_a_prompt_that_prefill_workers_would_make_late_is_computed_by_a_decode_worker() -> None:
    made = Scene()
    waits = {"waiting_tokens": 200_000, "waiting_prompts": 100}
    made.add("prefill-0", Role.PREFILL, costs=COSTS, told=waits)
    made.add("decode-0", Role.DECODE, costs=COSTS)
    assert placed(made, request(Slo(1.0, TPOT_S))) == ("decode-0", None)


def test_a_decode_worker_takes_a_prompt_while_enough_prompts_wait_at_prefill_workers() -> None:
    loose = request(Slo(5.0, 10 * TPOT_S))
    places = []
    for queued in (1, 4):
        made = Scene()
        waits = {"waiting_tokens": queued * 2048, "waiting_prompts": queued}
        made.add("prefill-0", Role.PREFILL, costs=COSTS, told=waits)
        made.add("decode-0", Role.DECODE, costs=COSTS)
        places.append(placed(made, loose))
    assert places == [("prefill-0", "decode-0"), ("decode-0", None)]


def test_one_decode_worker_is_kept_free_of_prompts_for_short_answers_that_are_handed_over() -> None:
    tpot_s = 2 * TPOT_S
    short = msgspec.structs.replace(request(Slo(5.0, tpot_s)), num_new_tokens=28)
    made = Scene()
    waits = {"waiting_tokens": 4 * 2048, "waiting_prompts": 4}
    made.add("prefill-0", Role.PREFILL, costs=COSTS, told=waits)
    paced = {"step_target_s": 0.95 * tpot_s}
    made.add("decode-0", Role.DECODE, costs=COSTS, told=paced)
    assert placed(made, short) == ("prefill-0", "decode-0")
    made.add("decode-1", Role.DECODE, costs=COSTS, told=paced)
    first, destination = placed(made, short)
    assert first.startswith("decode-")
    assert destination is None


def test_a_prefill_worker_decodes_what_no_decode_worker_can_take() -> None:
    made = fleet(1, 0)
    assert placed(made, request(Slo(1.0, TPOT_S))) == ("prefill-0", None)


def test_a_report_tells_the_role_of_a_worker() -> None:
    made = fleet(1, 1)
    assert num_prefill(made) == 1
    made.tell(WorkerRef("decode-0", 1), role=Role.PREFILL)
    assert num_prefill(made) == 2


def test_of_several_routers_the_one_with_the_lowest_id_is_known_to_all() -> None:
    made = fleet(1, 1)
    made.tell(WorkerRef("decode-0", 1), seen_submits={"a-router": 3, "router": 1})
    assert min(made.ledger.router_ids()) == "a-router"


def test_a_router_that_gets_no_requests_any_more_leaves_the_decision_to_others() -> None:
    made = fleet(1, 1)
    for number in range(SILENT_REPORTS + 1):
        made.tell(WorkerRef("decode-0", 1), seen_submits={"a-router": 3, "router": number})
    assert made.ledger.router_ids() == {"router"}


def test_requests_of_other_routers_count_in_the_rate_and_their_tokens_in_no_answer() -> None:
    alone, shared = fleet(1, 1), fleet(1, 1)
    decode = WorkerRef("decode-0", 1)
    for number in range(1, 101):
        for made, others in ((alone, 0), (shared, 3)):
            made.ledger.came(100, None, made.hits, number / 10)
            made.ledger.answered("", 50, 1.0)
            seen = {"router": number, "other": others * number}
            totals = WorkerTotals(generated_tokens=50 * number * (1 + others))
            made.tell(decode, seen_submits=seen, totals=totals)
    ours, all_of_them = alone.ledger.workload(10.0), shared.ledger.workload(10.0)
    assert ours is not None
    assert all_of_them is not None
    assert all_of_them.requests_per_s == pytest.approx(4 * ours.requests_per_s, rel=0.1)
    assert all_of_them.answer_tokens == pytest.approx(ours.answer_tokens, rel=0.1)


def test_few_requests_are_no_traffic() -> None:
    made = fleet(1, 7)
    for number in range(LEAST_SEEN - 1):
        made.ledger.came(2048, TPOT_S, Hits.none(8), number / 30)
    assert RoleController().decide(made.ledger, 1.0) is None


def test_what_a_worker_has_not_done_for_a_while_is_taken_from_its_like() -> None:
    """A prefill worker takes its chunks' time for the fixed part of a step, or the other way."""
    made = fleet(0, 2)
    slow_steps = StepCosts(
        step_s=12e-3,
        sequence_s=9e-4,
        context_token_s=0.0,
        prompt_token_s=3.0e-5,
        prompt_pair_s=0.0,
    )
    made.add("prefill-0", Role.PREFILL, costs=slow_steps)
    rates = work_rates(made.ledger.table, range(3), workload(2048, 128, TPOT_S), TPOT_S)
    assert rates.answers_per_s[2] == pytest.approx(rates.answers_per_s[0])
    assert rates.prompts_per_s[2] == pytest.approx(rates.prompts_per_s[0])


def test_another_device_keeps_its_own_times() -> None:
    made = fleet(0, 2)
    compute = StepCosts(
        step_s=6e-3, sequence_s=3e-5, context_token_s=4e-8, prompt_token_s=1e-5, prompt_pair_s=0.0
    )
    made.add("compute", Role.PREFILL, costs=compute)
    rates = work_rates(made.ledger.table, range(3), workload(2048, 128, TPOT_S), TPOT_S)
    assert rates.prompts_per_s[2] > 1.5 * rates.prompts_per_s[0]
