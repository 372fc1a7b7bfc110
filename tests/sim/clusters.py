"""Small clusters in virtual time, and what has to be true of them at the end."""

from __future__ import annotations

import pytest

from router.placing.placement_request import Slo, Split
from sim import traces
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from wire.identity import Role, WorkerRef

LOAD = traces.at_rate(traces.synthetic(16), per_s=8.0)
MACHINE = MachineModel()
PREFILL, DECODE = WorkerRef("prefill-0", 1), WorkerRef("decode-2", 1)


def slo_of(arrival: Arrival) -> Slo:
    return Slo(1.0 + 3 * MACHINE.prefill_s(arrival.num_prompt), 0.03)


def a_cluster(
    split: Split = Split.AUTO, machine: MachineModel = MACHINE, num_each: int = 2, seed: int = 0
) -> SimulatedCluster:
    pools = [WorkerPool(role, num_each, machine) for role in (Role.PREFILL, Role.DECODE)]
    return SimulatedCluster(pools, RouterSettings(split=split), seed)


def check_nothing_is_left(cluster: SimulatedCluster) -> None:
    """Every block of workers that live is free, and the ledger counts no attempt on them."""
    for ref, worker in cluster.workers.items():
        if not worker.alive:
            continue
        worker.engine.pool.check_integrity()
        assert worker.engine.pool.num_free == worker.engine.pool.num_blocks, ref
        assert worker.idle, ref
        load = cluster.ledger.load(ref)
        assert load is not None
        assert load.num_legs == 0, ref
        assert load.num_expected == 0, ref
        assert load.expected_tokens == pytest.approx(0, abs=1e-6), ref
    cluster.ledger.index.check_integrity()
