"""Goodput of two real workers whose roles follow the load, beside the same two never splitting.

    python -m benchmarks.split_pays [--runs 5] [--seconds 24] [--targets 2,6] [--played]
                                    [--json FILE]

Router and workers are processes, each worker with one thread; this process is the client. A
checkpoint of 125 million parameters with random weights serves prompts of 512 to 1,024 tokens and
answers of 32 to 64, in Poisson arrivals at the rate that the capacity formula predicts for one
prefill and one decode worker (times --load). The TPOT target is a multiple of the bare step, which
the workers measure first. Both clusters run at once, and get the same requests in alternation,
other ones in each run; an idle one takes no time. The simulation serves the same requests with
the mean of the step costs that the workers report.

Wants two idle cores: what else runs there lengthens steps of both, and of neither simulation. With
--played workers sleep as long as steps of such a model take, and need hardly any of a core: router,
placement, roles, handoffs and HTTP are as they are.
"""

from __future__ import annotations

import asyncio
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.split_pays.client import Outcome, offer
from benchmarks.split_pays.clusters import (
    NEVER,
    POLICIES,
    Computing,
    Policy,
    a_cluster,
    computing,
    machine_of,
    mean_costs,
    tell,
)
from benchmarks.split_pays.predicted import capacity, simulate
from benchmarks.split_pays.report import Finding, RunResult, show
from benchmarks.split_pays.workload import Request, Targets, draw_requests
from cluster.running import RunningCluster
from sim.machine import MachineModel

MODEL = "125m"
NUM_LEARN, LEARN_S, LEARN_SEED = 8, 10.0, 999
PATIENT = Targets(tpot_s=60.0, prompt_token_s=1.0)


def main(
    runs: Annotated[int, typer.Option(help="Of each policy and target.")] = 5,
    seconds: Annotated[float, typer.Option(help="In which requests come, of each run.")] = 24.0,
    targets: Annotated[str, typer.Option(help="For each token, in bare steps.")] = "2,6",
    load: Annotated[float, typer.Option(help="Times the predicted capacity.")] = 1.0,
    cache: Annotated[Path | None, typer.Option(help="Keeps the checkpoint.")] = None,
    played: Annotated[
        bool, typer.Option("--played", help="Workers sleep for a model's step times instead.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="File for all figures.")] = None,
) -> None:
    multiples = [float(each) for each in targets.split(",")]
    with computing(MODEL, cache, played=played) as computes:
        finding = asyncio.run(_find(computes, multiples, load, runs, seconds))
    show(finding)
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(finding)))


async def _find(
    computes: Computing, multiples: list[float], load: float, num_runs: int, seconds: float
) -> Finding:
    """Measure at each target, behind a look at what steps take."""
    machine = await _learn(computes)
    rates, runs = dict[str, float](), list[RunResult]()
    for multiple in multiples:
        predicted = capacity(machine, multiple * machine.step_s)
        rates[f"{multiple:g}"] = per_s = load * predicted.split
        runs += await _measure(computes, machine, multiple, per_s, num_runs, seconds)
    return Finding(
        step_s=machine.step_s,
        prompt_token_s=machine.prompt_token_s,
        sequence_s=machine.sequence_s,
        rates=rates,
        runs=runs,
    )


async def _learn(computes: Computing) -> MachineModel:
    """What steps take on this machine, with both workers at work."""
    with a_cluster(computes, NEVER, None) as cluster:
        await _warm_up(cluster, PATIENT, computes.vocab_size)
        return await _machine(cluster)


async def _warm_up(cluster: RunningCluster, targets: Targets, vocab_size: int) -> None:
    """Requests from which workers and router learn."""
    requests = draw_requests(LEARN_SEED, NUM_LEARN / LEARN_S, LEARN_S, targets, vocab_size)
    await offer(cluster.addresses.http, requests)


async def _machine(cluster: RunningCluster) -> MachineModel:
    told = await tell(cluster)
    costs = mean_costs(told)
    assert costs is not None, "the warm-up has too few steps"
    return machine_of(told[0].card, costs)


async def _measure(
    computes: Computing,
    machine: MachineModel,
    multiple: float,
    per_s: float,
    num_runs: int,
    seconds: float,
) -> list[RunResult]:
    """Alternating runs of both policies at one target."""
    targets = Targets(tpot_s=multiple * machine.step_s, prompt_token_s=machine.prompt_token_s)
    with ExitStack() as stack:
        clusters = [
            (policy, stack.enter_context(a_cluster(computes, policy, targets.tpot_s)))
            for policy in POLICIES
        ]
        for _, cluster in clusters:
            await _warm_up(cluster, targets, computes.vocab_size)
        served: list[tuple[Policy, list[Request], list[Outcome]]] = []
        for seed in range(num_runs):
            requests = draw_requests(seed, per_s, seconds, targets, computes.vocab_size)
            for policy, cluster in clusters:
                outcomes = await offer(cluster.addresses.http, requests)
                served.append((policy, requests, outcomes))
        machines = {policy: await _machine(cluster) for policy, cluster in clusters}
    return [
        _result(policy, multiple, outcomes, simulate(asked, machines[policy], policy, targets))
        for policy, asked, outcomes in served
    ]


def _result(
    policy: Policy, multiple: float, outcomes: list[Outcome], simulated: list[bool]
) -> RunResult:
    ttft = [each.ttft_s for each in outcomes if each.ttft_s is not None]
    tpot = [each.tpot_s for each in outcomes if each.tpot_s is not None]
    return RunResult(
        policy=policy.name,
        target=multiple,
        num_requests=len(outcomes),
        goodput=statistics.mean(each.good for each in outcomes),
        simulated=statistics.mean(simulated),
        refused=statistics.mean(each.error is not None for each in outcomes),
        ttft_p50_s=statistics.median(ttft) if ttft else None,
        tpot_p50_s=statistics.median(tpot) if tpot else None,
    )


if __name__ == "__main__":
    typer.run(main)
