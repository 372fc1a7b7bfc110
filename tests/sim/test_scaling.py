"""Pools that grow and shrink in virtual time: workers join after their start-up time, and leave
drained."""

from __future__ import annotations

import pytest

from router.placing.placement_request import Slo
from sim.evaluate import worker_settings
from sim.router import RouterSettings
from sim.scaling import PoolBounds, SimulatedScaling
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from tests.sim.clusters import check_nothing_is_left
from wire.identity import Role

pytestmark = pytest.mark.quick

TARGETS = Slo(ttft_s=2.0, tpot_s=0.03)
START_S = 20.0


def arrivals(begin_s: float, end_s: float, per_s: float) -> list[Arrival]:
    count = int((end_s - begin_s) * per_s)
    return [
        Arrival(begin_s + number / per_s, 8000, 10, (1 + number + int(1000 * begin_s),) * 16)
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def served() -> tuple[SimulatedCluster, SimulatedScaling, list[bool]]:
    """One worker to begin with, 6 requests a second for half a minute, then hardly any."""
    pool = WorkerPool(Role.DECODE, 1, settings=worker_settings(TARGETS))
    cluster = SimulatedCluster([pool], RouterSettings(max_queued=None))
    scaling = SimulatedScaling(cluster, {Role.DECODE: (pool, PoolBounds(1, 6))}, START_S)
    load = [*arrivals(0, 40, 6), *arrivals(40, 180, 0.2)]
    results = cluster.run(load, lambda _: TARGETS)
    return cluster, scaling, [each.last_s is not None for each in results]


Served = tuple[SimulatedCluster, SimulatedScaling, list[bool]]


def count_at(scaling: SimulatedScaling, at_s: float) -> int:
    return [count for time_s, count in scaling.counts if time_s <= at_s][-1]


def test_workers_join_under_load_and_leave_after_it(served: Served) -> None:
    _, scaling, _ = served
    assert count_at(scaling, 10) > 1
    assert scaling.most_workers <= 6
    assert count_at(scaling, 175) < scaling.most_workers


def test_no_request_is_lost_when_workers_leave(served: Served) -> None:
    _, _, complete = served
    assert all(complete)


def test_a_worker_serves_only_once_it_has_started() -> None:
    pool = WorkerPool(Role.DECODE, 1, settings=worker_settings(TARGETS))
    cluster = SimulatedCluster([pool], RouterSettings(max_queued=None))
    scaling = SimulatedScaling(cluster, {Role.DECODE: (pool, PoolBounds(1, 6))}, START_S)
    cluster.run(arrivals(0, START_S / 2, 3), lambda _: TARGETS)
    assert scaling.most_workers > 1
    assert len(cluster.workers) == 1


def test_drained_workers_are_gone_and_hold_nothing(served: Served) -> None:
    cluster, _, _ = served
    gone = [worker for worker in cluster.workers.values() if not worker.alive]
    assert gone
    assert cluster.ledger.num_ready == len(cluster.workers) - len(gone)
    for worker in gone:
        assert worker.idle
        worker.engine.pool.check_integrity()
        assert worker.engine.pool.num_free == worker.engine.pool.num_blocks
    check_nothing_is_left(cluster)


def test_workers_cost_from_their_start_until_they_have_left(served: Served) -> None:
    _, scaling, _ = served
    fewest, most = 1.0, float(scaling.most_workers)
    mean = scaling.worker_s / scaling.counts[-1][0]
    assert fewest < mean < most
