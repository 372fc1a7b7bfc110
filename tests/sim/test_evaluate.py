"""One run's figures: they repeat, leave the warm-up out, and agree with the results they sum up."""

from __future__ import annotations

import msgspec
import pytest

from router.placing.placement_request import Slo
from sim.evaluate import evaluate, worker_settings
from sim.machine import MachineModel
from sim.policies import ServingPolicy
from sim.request import RequestResult
from sim.simulation import SimulatedCluster, WorkerPool
from sim.summary import Run, Summary, summarize
from sim.traces import Arrival
from sim.warm_up import WarmUp, after_warm_up
from tests.sim.clusters import LOAD
from wire.identity import Role

pytestmark = pytest.mark.quick

TARGETS = Slo(2.0, 0.03)


def run(policy: ServingPolicy, seed: int = 0, load: list[Arrival] = LOAD) -> Summary:
    settings = worker_settings(TARGETS)
    pools = [WorkerPool(role, 1, MachineModel(), settings) for role in Role]
    return evaluate(pools, policy, load, TARGETS, seed, price_per_hour=8.0)


@pytest.mark.parametrize("policy", ServingPolicy)
def test_all_requests_are_in_the_figures_and_no_warm_up(policy: ServingPolicy) -> None:
    found = run(policy)
    assert found.num_requests == len(LOAD)
    assert found.policy == policy.value
    assert found.goodput <= min(found.ttft_attainment, found.tpot_attainment)
    assert sum(found.workers.values()) == pytest.approx(2)
    assert all(0 < share <= 1 for share in found.busy_share.values())


def test_equal_arguments_give_equal_figures_and_another_seed_gives_others() -> None:
    assert run(ServingPolicy.AUTO) == run(ServingPolicy.AUTO)
    assert run(ServingPolicy.AUTO) != run(ServingPolicy.AUTO, seed=9)


def test_fixed_policies_split_all_or_nothing() -> None:
    assert run(ServingPolicy.ALWAYS).split_share > 0.9
    assert run(ServingPolicy.ROUND_ROBIN).split_share == 1
    assert run(ServingPolicy.NEVER).split_share == 0


def test_slow_and_small_workers_are_warm_before_the_first_request() -> None:
    """What a laptop's core computes, and a cache that holds a thousand tokens: the first request
    finds the workers idle and its router calibrated."""
    slow = MachineModel(step_s=0.02, prompt_token_s=2e-3, pool_tokens=1024, max_model_len=1024)
    settings = worker_settings(TARGETS)
    pools = [WorkerPool(Role.DECODE, 1, slow, settings)]
    warm_up = WarmUp.of(pools)
    cluster = SimulatedCluster(pools, ServingPolicy.AUTO.router_settings())
    requests = warm_up.before([Arrival(0.0, 100, 2, (1,))])
    *warm, first = cluster.run(requests)
    assert all(each.last_s is not None and each.last_s < warm_up.end_s for each in warm)
    assert cluster.ledger.calibrated
    assert first.ttft_s == pytest.approx(slow.prefill_s(100), rel=0.2)


def test_usual_workers_are_warmed_up_as_in_benchmarks() -> None:
    pools = [WorkerPool(role, 4) for role in Role]
    assert WarmUp.of(pools).before(LOAD) == after_warm_up(LOAD)


def test_workers_of_one_role_take_turns_too() -> None:
    pools = [WorkerPool(Role.DECODE, 2, settings=worker_settings(TARGETS))]
    found = evaluate(pools, ServingPolicy.ROUND_ROBIN, LOAD, TARGETS)
    assert found.num_lost == found.num_refused == 0
    assert found.split_share == 0
    assert found.cost_per_hour is found.cost_per_million_tokens is None


def test_progress_rises_to_the_whole_trace() -> None:
    told: list[float] = []
    pools = [WorkerPool(Role.DECODE, 1, settings=worker_settings(TARGETS))]
    evaluate(pools, ServingPolicy.NEVER, LOAD, TARGETS, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1


def ended(at_s: float, first_s: float, last_s: float, num_new: int = 11) -> RequestResult:
    return RequestResult(Arrival(at_s, 100, num_new, (1,)), TARGETS, first_s, last_s)


def test_figures_of_a_few_requests_by_hand() -> None:
    refused = RequestResult(Arrival(2.0, 100, 11, (2,)), TARGETS, refused_s=2.0)
    lost = RequestResult(Arrival(3.0, 100, 11, (3,)), TARGETS, first_s=3.5, failure="it died")
    in_time, late_first, slow = ended(0.0, 1.0, 1.2), ended(0.0, 3.0, 3.1), ended(1.0, 2.0, 4.0)
    busy = {"prefill": 0.5}
    run = Run(
        policy="never",
        num_workers=2,
        busy_share=busy,
        workers={"prefill": 2.0},
        num_role_changes=0,
        price_per_hour=18.0,
    )
    found = summarize(run, [in_time, late_first, slow, refused, lost])
    assert found.goodput == 0.2
    assert found.good_per_s == pytest.approx(0.2 * 5 / 3, rel=1e-5)
    assert found.ttft_attainment == found.tpot_attainment == 0.4
    assert (found.num_refused, found.num_lost) == (1, 1)
    assert found.first_failure == "it died"
    assert found.ttft_s.p50 == 1.0
    assert found.tpot_s.p50 == pytest.approx(0.02)
    assert found.tokens_per_s_per_worker == pytest.approx(33 / (2 * 4.0))
    assert found.cost_per_million_tokens == pytest.approx(18 * 4 / 3600 / 33 * 1e6, rel=1e-5)
    assert msgspec.json.decode(msgspec.json.encode(found))["cost_per_hour"] == 18.0


def test_without_a_complete_request_percentiles_are_absent() -> None:
    refused = RequestResult(Arrival(2.0, 100, 11, (2,)), TARGETS, refused_s=2.0)
    run = Run(
        policy="never",
        num_workers=1,
        busy_share={},
        workers={},
        num_role_changes=0,
        price_per_hour=1.0,
    )
    found = summarize(run, [refused])
    assert found.goodput == found.split_share == 0
    assert found.ttft_s.p99 is found.cost_per_million_tokens is None
