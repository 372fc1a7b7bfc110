"""What the formula and the simulation say, given the workers' own step costs."""

from __future__ import annotations

import msgspec

from benchmarks.split_pays.clusters import CHUNK_TOKENS, Policy
from benchmarks.split_pays.workload import MEAN_ANSWER, MEAN_PROMPT, Request, Targets
from router.placing.placement_request import Slo
from sim.evaluate import worker_settings
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import BLOCK_TOKENS, Arrival
from wire.identity import Role

NUM_WARM, WARM_EVERY_S = 12, 10.0
FIRST_BLOCK = 1 << 30


class Capacity(msgspec.Struct, frozen=True):
    """Requests a second that two workers serve within the target."""

    never: float
    split: float
    """One prefill and one decode worker, which computes prompts in the time that is left to it."""


def capacity(machine: MachineModel, tpot_s: float) -> Capacity:
    """The formula of router.roles.capacity, written for one worker of each role."""
    prompt_s = MEAN_PROMPT * (machine.prompt_token_s + machine.prompt_pair_s * MEAN_PROMPT / 2)
    chunks_s = machine.step_s * MEAN_PROMPT / CHUNK_TOKENS
    context = MEAN_PROMPT + MEAN_ANSWER / 2
    answer_s = MEAN_ANSWER * (machine.sequence_s + machine.context_token_s * context)
    left = max(0.0, 1 - machine.step_s / tpot_s)
    prompts = 1 / (prompt_s + chunks_s)
    beside = (left + prompt_s * prompts) / (prompt_s + answer_s)
    return Capacity(never=2 * left / (prompt_s + answer_s), split=min(left / answer_s, beside))


def simulate(
    requests: list[Request], machine: MachineModel, policy: Policy, targets: Targets
) -> list[bool]:
    """Which of the requests are good in the simulation, behind some from which it learns."""
    tpot_s = targets.tpot_s
    settings = worker_settings(Slo(None, tpot_s), CHUNK_TOKENS)
    pools = [WorkerPool(role, 1, machine, settings) for role in (Role.PREFILL, Role.DECODE)]
    router = RouterSettings(split=policy.split, roles=policy.roles)
    cluster = SimulatedCluster(pools, router)
    warm = [_warm(number) for number in range(NUM_WARM)]
    arrivals = [_arrival(number, request) for number, request in enumerate(requests)]
    ttft_s = {arrival: each.ttft_s for arrival, each in zip(arrivals, requests, strict=True)}
    results = cluster.run([*warm, *arrivals], lambda each: Slo(ttft_s.get(each), tpot_s))
    return [each.good for each in results[NUM_WARM:]]


def _warm(number: int) -> Arrival:
    num_prompt, num_new = round(MEAN_PROMPT), round(MEAN_ANSWER)
    blocks = tuple(range(FIRST_BLOCK + 64 * number, FIRST_BLOCK + 64 * number + 8))
    return Arrival(number * WARM_EVERY_S, num_prompt, num_new, blocks)


def _arrival(number: int, request: Request) -> Arrival:
    num_prompt, first = len(request.prompt), 1 + 64 * number
    blocks = tuple(range(first, first + -(-num_prompt // BLOCK_TOKENS)))
    at_s = NUM_WARM * WARM_EVERY_S + request.at_s
    return Arrival(at_s, num_prompt, request.num_new, blocks)
