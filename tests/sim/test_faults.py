"""Workers that die in virtual time: their requests go on elsewhere, and every block comes back."""

from __future__ import annotations

import random

import pytest

from router.placing.placement_request import Split
from sim import traces
from sim.simulation import SimulatedCluster, WorkerPool
from tests.sim.clusters import DECODE, LOAD, PREFILL, a_cluster, check_nothing_is_left
from wire.identity import Role, WorkerRef

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("victim", [PREFILL, DECODE], ids=["prefill", "decode"])
@pytest.mark.parametrize("at_s", [0.2, 0.7, 1.1, 1.6])
def test_others_serve_what_a_dead_worker_had(victim: WorkerRef, at_s: float) -> None:
    cluster = a_cluster(Split.ALWAYS)
    cluster.kill(victim, at_s)
    results = cluster.run(LOAD)
    assert all(each.last_s is not None for each in results)
    assert all(each.attempts <= 2 for each in results)
    assert victim not in cluster.ledger.table.refs
    check_nothing_is_left(cluster)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_whenever_workers_die(seed: int) -> None:
    """Half of the workers die at any moments, and others join."""
    draw = random.Random(seed)
    cluster = a_cluster(draw.choice(list(Split)), num_each=3)
    for victim in draw.sample(sorted(cluster.workers, key=str), 3):
        cluster.kill(victim, draw.uniform(0.0, 3.0))
    cluster.add(WorkerPool(draw.choice(list(Role)), 1), draw.uniform(0.0, 2.0))
    load = traces.at_rate(LOAD, per_s=12.0)
    results = cluster.run(load)
    assert all(each.last_s is not None or each.attempts == 3 for each in results)
    check_nothing_is_left(cluster)


def test_what_a_dead_worker_had_is_tried_again() -> None:
    cluster = a_cluster(Split.ALWAYS)
    cluster.kill(PREFILL, 1.0)
    cluster.kill(DECODE, 1.0)
    results = cluster.run(LOAD)
    assert any(each.attempts == 2 for each in results)


def test_tokens_that_the_client_has_are_not_made_again() -> None:
    """The second attempt goes on behind them: no request takes more tokens than it wants."""
    cluster = a_cluster(Split.ALWAYS)
    cluster.kill(DECODE, 1.2)
    cluster.run(LOAD)
    wanted = sum(each.num_new for each in LOAD)
    reports = [worker.loop.last_report for worker in cluster.workers.values() if worker.alive]
    made = sum(report.totals.generated_tokens for report in reports if report is not None)
    assert made < wanted


def test_a_prefill_worker_serves_alone_when_every_decode_worker_is_gone() -> None:
    cluster = a_cluster(num_each=1)
    cluster.kill(WorkerRef("decode-1", 1), 0.3)
    results = cluster.run(LOAD[:4])
    assert all(each.last_s is not None for each in results)
    assert not results[-1].split
    check_nothing_is_left(cluster)


def test_requests_fail_when_nobody_is_left() -> None:
    cluster = a_cluster(num_each=1)
    _kill_both(cluster)
    results = cluster.run(LOAD[:4])
    assert all(each.failure is not None for each in results)


def test_a_worker_that_joins_in_time_serves_what_others_left() -> None:
    cluster = a_cluster(num_each=1)
    _kill_both(cluster)
    cluster.add(WorkerPool(Role.DECODE, 1), at_s=0.8)
    results = cluster.run(LOAD[:4])
    assert all(each.last_s is not None for each in results)
    assert cluster.workers[WorkerRef("decode-2", 1)].busy_s > 0
    check_nothing_is_left(cluster)


def _kill_both(cluster: SimulatedCluster) -> None:
    for number, role in enumerate(Role):
        cluster.kill(WorkerRef(f"{role.value}-{number}", 1), 0.3)
