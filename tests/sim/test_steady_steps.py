"""Steps that are carried out together have the results that they have one by one, bit for bit."""

from __future__ import annotations

import random
from itertools import count

import msgspec
import pytest

from router.config import Roles
from router.placing.placement_request import Slo, Split
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.steady_steps import SteadySteps
from sim.traces import Arrival, at_rate, synthetic
from sim.traces.generate import poisson
from sim.worker import SETTINGS
from tests.sim.clusters import check_nothing_is_left
from wire.identity import Role
from worker.steps.step_loop import StepLoop

pytestmark = pytest.mark.quick


def requests(draw: random.Random) -> list[Arrival]:
    """Conversations, whose turns share prompts, and requests that share nothing."""
    seed = draw.randrange(200)
    talk = at_rate(synthetic(8, seed), draw.uniform(2.0, 8.0))
    return sorted([*poisson(600, 90, 12.0, 24, seed), *talk], key=lambda each: each.at_s)


def a_cluster(draw: random.Random) -> SimulatedCluster:
    """Any roles, targets, block and pool sizes, noise and faults."""
    layout = msgspec.structs.replace(MachineModel().layout, block_size=draw.choice((32, 512)))
    machine = MachineModel(
        noise=draw.choice((0.0, 0.1)), pool_tokens=draw.choice((40_960, 450_048)), layout=layout
    )
    target_s = draw.choice((None, 8e-3))
    settings = msgspec.structs.replace(SETTINGS, tpot_target_s=target_s, chunk_tokens=1024)
    pools = [WorkerPool(role, draw.randint(1, 2), machine, settings) for role in Role]
    router = RouterSettings(
        max_queued=draw.choice((None, 4)),
        split=draw.choice(list(Split)),
        roles=draw.choice(list(Roles)),
    )
    cluster = SimulatedCluster(pools, router, seed=draw.randrange(100))
    if draw.random() < 0.5:
        cluster.kill(draw.choice(list(cluster.workers)), draw.uniform(0.5, 2.0))
        cluster.add(WorkerPool(Role.DECODE, 1, machine, settings), 2.0)
    return cluster


def outcome(seed: int) -> tuple[object, ...]:
    """Results of all requests, the last report of each worker, and its time spent in steps."""
    draw = random.Random(seed)
    cluster, load = a_cluster(draw), requests(draw)
    results = cluster.run(load, lambda arrival: Slo(1.0, 9e-3))
    check_nothing_is_left(cluster)
    workers = [(each.busy_s, each.loop.last_report) for each in cluster.workers.values()]
    return results, workers, cluster.role_changes


@pytest.mark.parametrize("seed", range(4))
def test_steps_carried_out_together_are_the_steps_one_by_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = outcome(seed)
    monkeypatch.setattr(SteadySteps, "begin", lambda steady: False)
    assert outcome(seed) == together


def test_a_batch_to_which_nothing_happens_takes_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    num_turns, turn = count(), StepLoop.turn

    def counted(loop: StepLoop, timeout_s: float = 0.0) -> bool:
        next(num_turns)
        return turn(loop, timeout_s)

    monkeypatch.setattr(StepLoop, "turn", counted)
    SimulatedCluster([WorkerPool(Role.DECODE, 1)]).run([Arrival(0.0, 100, 400, (1,))])
    assert next(num_turns) < 400 / 5
