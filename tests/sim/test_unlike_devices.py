"""Unlike devices serve one model: each does what it is better at, in virtual time."""

from __future__ import annotations

import random
from statistics import mean

import msgspec

from benchmarks.model_shapes import LLAMA_8B
from router.config import Roles
from router.placing.placement_request import Slo
from sim.devices.device import read_device
from sim.devices.roofline import machine_of
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.traces.arrival import own_blocks
from sim.worker import SETTINGS
from tests.sim.clusters import check_nothing_is_left
from wire.identity import Role

H200, H20 = (machine_of(read_device(name), LLAMA_8B) for name in ("h200", "h20"))


def pool(role: Role, count: int, machine: MachineModel, tpot_s: float) -> WorkerPool:
    settings = msgspec.structs.replace(SETTINGS, chunk_tokens=2048, tpot_target_s=0.85 * tpot_s)
    return WorkerPool(role, count, machine, settings)


def requests(count: int, per_s: float, num_prompt: int, num_new: int) -> list[Arrival]:
    """Poisson arrivals; prompts from a quarter of `num_prompt` to four times as many tokens."""
    draw, at_s, found = random.Random(1), 0.0, []
    for number in range(count):
        at_s += draw.expovariate(per_s)
        length = round(num_prompt * 4 ** draw.uniform(-1, 1))
        found.append(Arrival(at_s, length, num_new, own_blocks(number, length)))
    return found


def serve(
    pools: list[WorkerPool], load: list[Arrival], slo: Slo
) -> tuple[SimulatedCluster, list[RequestResult]]:
    cluster = SimulatedCluster(pools, RouterSettings(roles=Roles.FOLLOW))
    results = cluster.run(load, lambda _: slo)
    check_nothing_is_left(cluster)
    assert not any(each.failure for each in results)
    return cluster, results


def roles_by_device(cluster: SimulatedCluster) -> dict[str, list[Role]]:
    found: dict[str, list[Role]] = {}
    for worker in cluster.workers.values():
        role = worker.engine.policy.role
        found.setdefault(worker.card.device, []).append(role)
    return found


def test_the_compute_heavy_kind_prefills_and_short_prompts_stay_with_the_other() -> None:
    """H200s beside H20s, in the wrong roles at first. No length is configured from which prompts
    leave: those that an H20 reads are the shorter ones."""
    tpot_s = 0.015
    pools = [pool(Role.PREFILL, 3, H20, tpot_s), pool(Role.DECODE, 2, H200, tpot_s)]
    cluster, results = serve(pools, requests(300, 18.0, 2500, 100), Slo(3.0, tpot_s))
    roles = roles_by_device(cluster)
    assert set(roles["h200"]) == {Role.PREFILL}
    assert Role.DECODE in roles["h20"]
    settled = results[150:]
    assert mean(each.good for each in settled) > 0.95
    lengths = lengths_by_reader(cluster, settled)
    assert 1.5 * mean(lengths["h20"]) < mean(lengths["h200"])


def lengths_by_reader(
    cluster: SimulatedCluster, results: list[RequestResult]
) -> dict[str, list[int]]:
    """Prompt tokens of the requests that each kind of device computed."""
    found: dict[str, list[int]] = {}
    for each in results:
        if each.placement is not None:
            device = cluster.workers[each.placement.first].card.device
            found.setdefault(device, []).append(each.arrival.num_prompt)
    return found
