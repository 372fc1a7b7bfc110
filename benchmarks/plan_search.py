"""How far the plan's answer is from the best one, and what it takes to find it.

    python -m benchmarks.plan_search [--traces DIR] [--only chat] [--devices h200+h20] [--count N]

A model of 70 billion parameters, at most 64 GPUs. `sim.plan` searches as `tandem plan` does, with
one structure shown. Then every other choice that costs less than its answer is served in the
simulation, with the same requests, targets and rules: all numbers of workers within the GPUs, all
tensor-parallel degrees, chunk sizes and pairs of devices. Left out are those of which the formula
says that one of the roles serves less than 0.7 of the rate (`--least`); the largest ratio of what
was served to what the formula says is printed beside, and has to be well below 1/0.7 for that to
be honest.
The ratio is the cost of the plan's answer to that of the best choice; both keep the
targets by the share of requests that has to. Seconds are those of the processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from benchmarks.model_shapes import LLAMA_70B
from sim.devices.device import read_device
from sim.plan.choices import every_choice, families
from sim.plan.formula import Formula
from sim.plan.planner import PlanFound, plan
from sim.plan.pool_choice import Needs, PoolChoice, WorkerKind
from sim.plan.traffic_profile import TrafficProfile, traffic_of
from sim.plan.trials import Trials, num_requests, window
from sim.plan.worker_kinds import DeviceStock, worker_kinds
from sim.traces import Arrival, open_trace

DEVICES = (("h200",), ("h200", "h20"))
LEAST_SERVED = 0.7
MAX_RATIO, MAX_CPU_S = 1.05, 120.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A trace or a SPEC with targets and a rate that needs a good part of the GPUs."""

    name: str
    trace: str
    requests_per_s: float
    ttft_s: float
    tpot_s: float


WORKLOADS = (
    Workload(
        name="prompt-heavy, strict",
        trace="poisson:4096/128",
        requests_per_s=25,
        ttft_s=2,
        tpot_s=0.025,
    ),
    Workload(name="chat", trace="poisson:500/250", requests_per_s=80, ttft_s=1, tpot_s=0.03),
    Workload(
        name="Azure code", trace="azure2023_code.csv", requests_per_s=40, ttft_s=2, tpot_s=0.03
    ),
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One workload on one set of devices."""

    kinds: tuple[WorkerKind, ...]
    arrivals: list[Arrival]
    traffic: TrafficProfile
    needs: Needs


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The plan, and what an exhaustive search found."""

    found: PlanFound
    plan_cpu_s: float
    best: PoolChoice
    num_choices: int
    """All within the GPUs."""
    num_served: int
    """Those that were simulated by the exhaustive search."""
    largest_error: float
    """Of choices that passed: what was served to what the formula says."""
    cpu_s: float

    @property
    def ratio(self) -> float:
        return self.found.best.trial.choice.cost / self.best.cost


def main(
    traces: Annotated[Path | None, typer.Option(help="Where the trace files lie.")] = None,
    only: Annotated[str, typer.Option(help="Workloads whose names begin so.")] = "",
    devices: Annotated[str, typer.Option(help="One set of devices, such as h200+h20.")] = "",
    gpus: Annotated[int, typer.Option(help="GPUs that exist.")] = 64,
    count: Annotated[int | None, typer.Option(help="Requests of a simulation.")] = None,
    least: Annotated[
        float,
        typer.Option(help="Least estimate of choices that are served, in times the rate."),
    ] = LEAST_SERVED,
) -> None:
    console = Console(soft_wrap=True)
    for workload in WORKLOADS:
        if not workload.name.startswith(only):
            continue
        for names in DEVICES:
            if devices in ("", "+".join(names)):
                case = _case(console, workload, names, traces, gpus, count)
                if case is not None:
                    _show(console, workload, names, compare(case, least))


def compare(case: Case, least: float) -> Outcome:
    """Plan, then search exhaustively among choices with an estimate of `least` times the rate."""
    begin_s = time.process_time()
    trials = Trials(case.arrivals, case.needs)
    found = plan(case.kinds, case.traffic, case.needs, trials, num_shown=1)
    plan_cpu_s = time.process_time() - begin_s
    cost = found.best.trial.choice.cost
    formula = Formula(case.traffic, case.needs)
    everything = [
        each for family in families(case.kinds) for each in every_choice(family, case.needs)
    ]
    rate = least * case.needs.requests_per_s
    cheaper = [
        each
        for each in everything
        if each.cost < cost - 1e-9 and formula.estimate(each).least.requests_per_s >= rate
    ]
    passed = [each for each in cheaper if trials.run(each).passed]
    passed.append(found.best.trial.choice)
    return Outcome(
        found=found,
        plan_cpu_s=plan_cpu_s,
        best=min(passed, key=lambda each: each.cost),
        num_choices=len(everything),
        num_served=len(cheaper),
        largest_error=max(_errors(passed, formula, case.needs)),
        cpu_s=time.process_time() - begin_s - plan_cpu_s,
    )


def _errors(passed: Sequence[PoolChoice], formula: Formula, needs: Needs) -> Iterator[float]:
    for each in passed:
        yield needs.requests_per_s / formula.estimate(each).least.requests_per_s


def _case(
    console: Console,
    workload: Workload,
    names: Sequence[str],
    traces: Path | None,
    gpus: int,
    count: int | None,
) -> Case | None:
    source = workload.trace
    if source.endswith(".csv"):
        file = None if traces is None else traces / source
        if file is None or not file.exists():
            console.print(f"{workload.name}: left out, there is no {file or source} (--traces)")
            return None
        source = str(file)
    needs = Needs(
        requests_per_s=workload.requests_per_s,
        ttft_s=workload.ttft_s,
        tpot_s=workload.tpot_s,
        max_gpus=gpus,
    )
    trace = open_trace(source, needs.requests_per_s, 4000)
    wanted = count or num_requests(traffic_of(trace.arrivals), needs)
    arrivals = window(trace.arrivals, wanted)
    stock = [DeviceStock(read_device(name)) for name in names]
    kinds = worker_kinds(stock, LLAMA_70B, trace.block_tokens).able
    return Case(kinds=kinds, arrivals=arrivals, traffic=traffic_of(arrivals), needs=needs)


def _show(console: Console, workload: Workload, names: Sequence[str], outcome: Outcome) -> None:
    met = outcome.ratio <= MAX_RATIO and outcome.plan_cpu_s <= MAX_CPU_S
    found, word = outcome.found, "met   " if met else "missed"
    for line in (
        f"{word}  {workload.name}, {' + '.join(names)}: plan ÷ best {outcome.ratio:.3f}",
        f"        plan: {found.best.trial.choice.label}, cost {found.best.trial.choice.cost:.2f}; "
        f"{found.num_trials} trials, {outcome.plan_cpu_s:.0f} s",
        f"        best: {outcome.best.label}, cost {outcome.best.cost:.2f}; of "
        f"{outcome.num_choices:,} choices {outcome.num_served} cheaper ones served, "
        f"{outcome.cpu_s:.0f} s; served ÷ formula at most {outcome.largest_error:.2f}",
    ):
        console.print(line, markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(main)
