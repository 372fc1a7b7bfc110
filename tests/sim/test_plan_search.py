"""Pools that are planned: within limits, cheapest first, found with few trials."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec
import pytest

from router.placing.placement_request import Slo
from sim.machine import MachineModel
from sim.plan.beliefs import Beliefs
from sim.plan.choices import considered, every_choice, families
from sim.plan.findings import rows, verdict
from sim.plan.formula import Bound, Formula
from sim.plan.plan_errors import BadNeeds, NothingFits, TooMuch
from sim.plan.planner import PlanFound, plan
from sim.plan.pool_choice import Needs, PoolChoice, PoolFamily, WorkerKind
from sim.plan.traffic_profile import TrafficProfile, traffic_of
from sim.plan.trials import Trials, num_requests, simulate, window
from sim.plan.waiting import usable_share
from sim.plan.worker_kinds import check_targets
from sim.request import RequestResult
from sim.summary import Run, Summary, summarize
from sim.traces import BLOCK_TOKENS, Arrival, at_rate

pytestmark = pytest.mark.quick

FAST = WorkerKind(device="fast", tensor_parallel=1, machine=MachineModel(), price_per_hour=4.0)
SLOW_READER = WorkerKind(
    device="slow-reader",
    tensor_parallel=1,
    machine=msgspec.structs.replace(MachineModel(), prompt_token_s=2e-4),
    price_per_hour=1.0,
)
STRICT = Needs(requests_per_s=12.0, ttft_s=1.5, tpot_s=0.010, attainment=0.9, max_gpus=8)
RELAXED = msgspec.structs.replace(STRICT, tpot_s=0.060)


def requests(count: int, prompt: int, answer: int, seed: int = 1) -> list[Arrival]:
    """Poisson arrivals at one a second of log-normal lengths, which share nothing."""
    draw = random.Random(seed)
    found, at_s, block = [], 0.0, 1

    def length(mean: int) -> int:
        return max(2, round(mean * draw.lognormvariate(0, 0.3) / math.exp(0.045)))

    for _ in range(count):
        at_s += draw.expovariate(1.0)
        num_prompt, num_new = length(prompt), length(answer)
        blocks = tuple(range(block, block + -(-num_prompt // BLOCK_TOKENS)))
        found.append(Arrival(at_s, num_prompt, num_new, blocks))
        block += len(blocks)
    return found


LOAD = requests(120, 2048, 40)


TRAFFIC = traffic_of(LOAD)


class Truth:
    """Serves in place of the simulation: as the formula says, times an error for each role."""

    def __init__(
        self, needs: Needs, prefill: float = 0.9, decode: float = 1.1, unsplit: float = 0.85
    ) -> None:
        self._formula = Formula(TRAFFIC, needs)
        self._prefill, self._decode, self._unsplit = prefill, decode, unsplit

    def __call__(self, choice: PoolChoice, arrivals: Sequence[Arrival]) -> Summary:
        rate = len(arrivals) / (arrivals[-1].at_s - arrivals[0].at_s)
        estimate = self._formula.estimate(choice)
        if estimate.prefill is None:
            first = further = self._unsplit * estimate.decode.requests_per_s / rate
        else:
            first = self._prefill * estimate.prefill.requests_per_s / rate
            further = self._decode * estimate.decode.requests_per_s / rate
        return a_summary(min(1.0, first), min(1.0, further), len(arrivals))


def a_summary(first: float, further: float, num_requests: int) -> Summary:
    run = Run(
        policy="", num_workers=1, busy_share={}, workers={}, num_role_changes=0, price_per_hour=None
    )
    return msgspec.structs.replace(
        summarize(run, [RequestResult(LOAD[0], Slo())]),
        num_requests=num_requests,
        ttft_attainment=first,
        tpot_attainment=further,
        goodput=min(first, further),
    )


def trials_of(needs: Needs, **errors: float) -> Trials:
    return Trials(LOAD, needs, serve=Truth(needs, **errors))


def planned(kinds: list[WorkerKind], needs: Needs, **errors: float) -> PlanFound:
    return plan(kinds, TRAFFIC, needs, trials_of(needs, **errors))


def test_every_choice_is_within_the_devices_that_exist_and_the_limit() -> None:
    few = msgspec.structs.replace(FAST, num_gpus_that_exist=3)
    family = PoolFamily(few, few)
    counts = {(each.num_prefill, each.num_decode) for each in every_choice(family, STRICT)}
    assert counts == {(1, 1), (1, 2), (2, 1)}
    unlike = PoolFamily(SLOW_READER, few)
    limited = msgspec.structs.replace(STRICT, max_gpus=4)
    assert all(each.num_gpus <= 4 for each in every_choice(unlike, limited))
    assert max(each.num_prefill for each in every_choice(unlike, limited)) == 3


def test_choices_that_the_formula_finds_likely_are_among_all_choices() -> None:
    formula = Formula(TRAFFIC, STRICT)
    for family in families([FAST]):
        everything = set(every_choice(family, STRICT))
        assert {each.choice for each in considered(family, formula, STRICT)} <= everything


def test_a_strict_target_is_kept_by_splitting_for_less() -> None:
    found = planned([FAST], STRICT)
    assert found.best.trial.passed
    assert found.best.trial.choice.family.split
    assert verdict(found).startswith("Split: the target of 10 ms a token is 1.6 × one step")


def test_under_a_relaxed_target_the_plan_is_not_to_split() -> None:
    found = planned([FAST], RELAXED)
    assert not found.best.trial.choice.family.split
    assert verdict(found).startswith("Do not split: the target of 60 ms a token is 9.8 ×")


@pytest.mark.parametrize("requests_per_s", [12.0, 30.0, 45.0])
@pytest.mark.parametrize("prefill", [0.85, 1.0, 1.15])
@pytest.mark.parametrize("decode", [0.85, 1.15])
def test_no_cheaper_choice_keeps_the_targets(
    requests_per_s: float, prefill: float, decode: float
) -> None:
    needs = msgspec.structs.replace(STRICT, requests_per_s=requests_per_s, max_gpus=24)
    trials = trials_of(needs, prefill=prefill, decode=decode)
    cost = plan([FAST, SLOW_READER], TRAFFIC, needs, trials).best.trial.choice.cost
    assert trials.num_done < 60
    cheaper = [
        choice
        for family in families([FAST, SLOW_READER])
        for choice in every_choice(family, needs)
        if choice.cost < cost
    ]
    assert len(cheaper) > 5
    assert not any(trials.run(choice).passed for choice in cheaper)


def test_a_plan_is_what_the_simulation_serves() -> None:
    """The one test here that simulates."""
    needs = msgspec.structs.replace(STRICT, requests_per_s=15.0)
    load = requests(40, 2048, 20)
    found = plan([FAST], traffic_of(load), needs, Trials(load, needs), num_shown=1)
    choice = found.best.trial.choice
    again = simulate(choice, at_rate(load, 15.0), needs)
    assert again == found.best.trial.summary
    assert again.split_share == float(choice.family.split)
    assert min(again.ttft_attainment, again.tpot_attainment) >= needs.attainment


def test_cheap_devices_that_read_prompts_slowly_decode_what_fast_ones_read() -> None:
    found = planned([FAST, SLOW_READER], STRICT)
    best = found.best.trial.choice
    assert best.family.prefill is FAST
    assert best.family.decode is SLOW_READER


def test_a_plan_repeats() -> None:
    assert rows(planned([FAST], RELAXED)) == rows(planned([FAST], RELAXED))


def test_headroom_is_what_the_simulation_served_beyond_the_rate() -> None:
    best = planned([FAST], RELAXED).best
    assert best.headroom > 0 or best.first_failure is not None
    if best.first_failure is not None:
        assert not best.first_failure.passed
        assert best.first_failure.requests_per_s > RELAXED.requests_per_s * (1 + best.headroom)


def test_a_verdict_speaks_only_of_what_was_looked_at() -> None:
    found = planned([FAST], RELAXED)
    assert "Otherwise the cheapest is" in verdict(found)
    alone = msgspec.structs.replace(found, candidates=found.candidates[:1])
    assert verdict(alone).endswith("leaves room for prompts in the steps of answers.")


def test_without_prices_gpus_are_counted() -> None:
    unpriced = msgspec.structs.replace(FAST, price_per_hour=None)
    found = planned([unpriced], RELAXED)
    assert found.best.trial.choice.cost == found.best.trial.choice.num_gpus
    assert rows(found)[0].cost_per_million_tokens is None
    assert rows(found)[0].gpu_hours_per_million_tokens > 0


def test_too_few_devices_are_an_error_that_says_how_much_they_serve() -> None:
    needs = msgspec.structs.replace(STRICT, requests_per_s=500.0)
    with pytest.raises(TooMuch, match=r"at most some \d+\.?\d* requests/s .* 500/s are wanted"):
        planned([FAST], needs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests_per_s": 0.0}, "requests_per_s is 0: it must be above 0"),
        ({"ttft_s": -1.0}, "ttft_s is -1"),
        ({"tpot_s": float("nan")}, "tpot_s is nan"),
        ({"attainment": 1.0}, "attainment is 1: it must be between 0 and 1"),
        ({"max_gpus": 0}, "max_gpus is 0"),
    ],
)
def test_needs_that_make_no_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(BadNeeds, match=message):
        msgspec.structs.replace(STRICT, **changes)


def profile(**changes: object) -> TrafficProfile:
    return msgspec.structs.replace(TRAFFIC, **changes)


def test_a_target_below_one_step_names_the_step_and_the_target() -> None:
    needs = msgspec.structs.replace(STRICT, tpot_s=0.004)
    with pytest.raises(NothingFits, match=r"one step of this model on fast TP1 takes 6\.1 ms, the"):
        check_targets([FAST], profile(), needs)


def test_a_target_below_one_prompt_names_the_prompt_and_the_target() -> None:
    needs = msgspec.structs.replace(STRICT, ttft_s=0.05)
    with pytest.raises(NothingFits, match=r"takes 0\.1\d s on fast TP1 alone, the target"):
        check_targets([FAST], profile(), needs)


def test_prompts_longer_than_any_cache_are_counted() -> None:
    lengths = (1_000,) * 90 + (600_000,) * 10
    with pytest.raises(
        NothingFits, match=r"10\.0% of the trace's requests are longer than 262,144"
    ):
        check_targets(
            [FAST], profile(lengths=lengths), msgspec.structs.replace(STRICT, attainment=0.95)
        )
    check_targets(
        [FAST], profile(lengths=lengths), msgspec.structs.replace(STRICT, attainment=0.85)
    )


def test_a_slow_link_binds() -> None:
    slow = msgspec.structs.replace(MachineModel(), bytes_per_s=5e8)
    kind = msgspec.structs.replace(FAST, machine=slow)
    estimate = Formula(TRAFFIC, STRICT).estimate(PoolChoice(PoolFamily(FAST, kind), 1, 1))
    assert estimate.prefill is not None
    assert estimate.prefill.bound is Bound.LINK
    bytes_each = TRAFFIC.uncached_tokens * slow.layout.token_bytes
    assert estimate.prefill.requests_per_s == pytest.approx(5e8 / bytes_each)


def test_a_small_cache_binds() -> None:
    small = msgspec.structs.replace(MachineModel(), pool_tokens=20_000)
    kind = msgspec.structs.replace(FAST, machine=small)
    estimate = Formula(TRAFFIC, RELAXED).estimate(PoolChoice(PoolFamily(kind, FAST), 1, 1))
    assert estimate.decode.bound is Bound.KV_MEMORY


def test_more_servers_may_be_busier_and_burstier_traffic_less() -> None:
    def share(servers: int, scv: float = 1.0, wait_s: float = 1.0) -> float:
        return usable_share(servers, 0.5, scv, wait_s, 0.01)

    assert 0 < share(1) < share(4) < share(32) < 1
    assert share(4, scv=4.0) < share(4)
    assert share(4, wait_s=3.0) > share(4)
    # M/M/1: the probability of a longer wait is ρ exp(-(1 - ρ) t / s).
    assert share(1) * math.exp(-(1 - share(1)) / 0.5) == pytest.approx(0.01, rel=0.05)


def test_shared_prefixes_count_as_cached() -> None:
    first = Arrival(0.0, 1024, 10, (1, 2))
    found = traffic_of([first, Arrival(1.0, 1500, 20, (1, 2, 3))])
    assert found.cached_tokens == 512
    assert found.uncached_tokens == (1024 + 476) / 2
    assert found.share_longer(1034) == 0.5


def test_a_trial_lowers_the_belief_in_the_side_that_failed() -> None:
    choice = PoolChoice(PoolFamily(FAST, FAST), 1, 3)
    hard = msgspec.structs.replace(STRICT, requests_per_s=40.0)
    estimate, beliefs = Formula(TRAFFIC, hard).estimate(choice), Beliefs()
    more_prefill = PoolChoice(choice.family, 5, 3)
    other = Formula(TRAFFIC, hard).estimate(more_prefill)
    before = beliefs.chance(choice, estimate, 12.0), beliefs.chance(more_prefill, other, 12.0)
    trial = trials_of(hard).run(choice)
    assert not trial.passed
    beliefs.learn(trial, estimate)
    assert beliefs.chance(choice, estimate, 12.0) <= before[0]


def test_a_trial_without_a_chance_ends_early() -> None:
    trials = trials_of(msgspec.structs.replace(STRICT, requests_per_s=200.0))
    assert not trials.run(PoolChoice(PoolFamily(FAST), 0, 1)).passed
    assert trials.num_simulated < 0.5 * len(LOAD)


def test_a_trial_is_simulated_once() -> None:
    trials = trials_of(RELAXED)
    choice = PoolChoice(PoolFamily(FAST), 0, 3)
    first = trials.run(choice)
    simulated = trials.num_simulated
    assert trials.run(choice) is first
    assert trials.num_simulated == simulated


def test_trials_are_long_enough_for_workers_to_be_full() -> None:
    traffic = profile(answer_tokens=1000.0)
    needs = msgspec.structs.replace(STRICT, requests_per_s=50.0, tpot_s=0.03)
    assert num_requests(traffic, needs) == min(4000, 50 * 3 * 30)
    assert num_requests(profile(), STRICT) == 500


@pytest.mark.parametrize("load", [LOAD[:1], [LOAD[0], LOAD[0]]])
def test_a_trace_without_a_rate_is_refused(load: list[Arrival]) -> None:
    with pytest.raises(BadNeeds, match="at least two requests"):
        window(load, 10)
