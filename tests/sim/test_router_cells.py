"""Several routers on one clock serve what each would serve alone."""

from __future__ import annotations

import pytest

from router.placing.placement_request import Slo
from sim.router import RouterSettings
from sim.router_cells import RouterCells
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import at_rate, synthetic
from sim.warm_up import NUM_WARM, after_warm_up
from tests.sim.clusters import check_nothing_is_left
from wire.identity import Role

pytestmark = pytest.mark.quick

POOLS = [WorkerPool(role, 1) for role in Role]
LOAD = at_rate(synthetic(10), per_s=4.0)
TARGETS = Slo(1.0, 0.03)


def test_every_cell_serves_its_part_as_if_it_were_alone() -> None:
    site = RouterCells(2, POOLS, RouterSettings(), seed=3)
    results = site.run(LOAD, lambda _: TARGETS)
    alone = []
    for number in range(2):
        cluster = SimulatedCluster(POOLS, seed=3 + 2 * number)
        dealt = after_warm_up(LOAD[number::2])
        alone += cluster.run(dealt, lambda _: TARGETS)[NUM_WARM:]
    assert results == alone
    for cluster in site.clusters:
        check_nothing_is_left(cluster)
