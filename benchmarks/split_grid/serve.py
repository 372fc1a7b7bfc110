"""Serves one cell of the grid by one policy: eight workers in virtual time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from benchmarks.placement.policies import Setting, goodput
from router.config import Roles
from router.placing.placement_request import Slo, Split
from sim.evaluate import worker_settings
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.warm_up import NUM_WARM
from wire.identity import Role

NUM_WORKERS = 8
CHUNK_TOKENS = 2048
"""Most prompt tokens of a step. Beside answers the target bounds it."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy that is compared; `num_prefill` workers have that role at the start."""

    name: str
    roles: Roles
    split: Split
    num_prefill: int


def never() -> Arm:
    """Every worker computes prompts beside answers."""
    return Arm("never", Roles.FIXED, Split.NEVER, 0)


def always(num_prefill: int) -> Arm:
    """Every request is split, and roles stay."""
    return Arm(ratio(num_prefill), Roles.FIXED, Split.ALWAYS, num_prefill)


def auto(num_prefill: int) -> Arm:
    """Roles follow the load, from so many prefill workers."""
    return Arm(f"auto {ratio(num_prefill)}", Roles.FOLLOW, Split.AUTO, num_prefill)


def ratio(num_prefill: int) -> str:
    return f"{num_prefill}:{NUM_WORKERS - num_prefill}"


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one arm in one cell; shares are of all requests."""

    goodput: float
    refused: float
    ttft_missed: float
    """Served, with a first token that was late."""
    tpot_missed: float
    split: float
    num_changes: int
    """Changes of roles."""
    num_prefill: int
    """Prefill workers at the end."""
    cpu_s: float


def serve(arm: Arm, requests: list[Arrival], tpot_s: float, machine: MachineModel) -> Served:
    """The outcome of these requests, of which the first NUM_WARM are a warm-up that is left out."""
    begun_s = time.process_time()
    cluster = cluster_of(arm, tpot_s, machine)
    setting = Setting(machine, tpot_s=tpot_s)
    results = cluster.run(requests, setting.slo)[NUM_WARM:]
    count = len(results)
    num_late = sum(each.last_s is not None and not each.good for each in results)
    first_late = sum(_is_first_late(each) for each in results)
    return Served(
        goodput=goodput(results),
        refused=sum(each.refused_s is not None for each in results) / count,
        ttft_missed=first_late / count,
        tpot_missed=(num_late - first_late) / count,
        split=sum(each.split for each in results) / count,
        num_changes=len(cluster.role_changes),
        num_prefill=int(cluster.ledger.table.prefills.sum()),
        cpu_s=time.process_time() - begun_s,
    )


def _is_first_late(result: RequestResult) -> bool:
    ttft_s, target_s = result.ttft_s, result.slo.ttft_s
    return ttft_s is not None and target_s is not None and ttft_s > target_s


def cluster_of(arm: Arm, tpot_s: float, machine: MachineModel) -> SimulatedCluster:
    """Workers have equal settings in every arm."""
    settings = worker_settings(Slo(None, tpot_s), CHUNK_TOKENS)
    counts = ((Role.PREFILL, arm.num_prefill), (Role.DECODE, NUM_WORKERS - arm.num_prefill))
    pools = [WorkerPool(role, number, machine, settings) for role, number in counts if number]
    return SimulatedCluster(pools, RouterSettings(max_queued=256, split=arm.split, roles=arm.roles))
