"""The command `tandem simulate`: a trace served by a cluster in virtual time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.json import encode
from msgspec.structs import asdict
from rich.progress import Progress, TaskID

from cluster.console import TolerantConsole
from cluster.error_line import reporting_errors

if TYPE_CHECKING:
    from cluster.scenario import Scenario
    from sim.summary import Summary

HELP = """Serve requests with a cluster in virtual time, and tell how many are in time.

\b
Router, schedulers and handoffs are those that serve; steps take what a device
would. Every run begins with a few requests that warm the cluster up, and are in
none of the figures. Equal options and seeds give equal figures.

\b
SPEC describes requests; PROMPT/ANSWER are lengths in tokens, on average:
  poisson:2048/128        at random times
  even:2048/128           one each 1/RATE seconds
  gamma:2048/128,cv=3     in clumps; cv of the intervals
  burst:2048/128,times=5,on=5s,off=25s
                          for 5 s of every 30 at five times the others' rate
  conversation:turns=5,prefix=2000,append=200,answer=150,think=10s
                          prompts are all that was said, behind a shared prefix
  mix:4096/64@60s,256/512@60s,conversation@60s
                          phases one behind the other
Options follow with commas, in a mix behind their phase. All kinds have sigma
(of the logarithm of lengths; 0.4, of conversations 0) and rate, instead of
--rate.

\b
FILE is a trace of Mooncake (jsonl) or Azure (csv), or a CSV with the columns
prompt and answer in tokens and, if it has times, timestamp in seconds.
"""
DEFAULT_POLICY = "auto"

TraceOption = Annotated[
    str, typer.Option("--trace", metavar="FILE|SPEC", help="The requests; see above.")
]
Rate = Annotated[
    float | None,
    typer.Option(help="Requests a second; a file is sped up or slowed down to it.", min=1e-6),
]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        help="auto, always, never or round-robin; several are compared.",
        show_default=DEFAULT_POLICY,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Workers that begin in this role.", min=0, show_default="4, or as --from-status says"
    ),
]
FromStatus = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What `tandem status --json` printed: workers and their own step times.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="A device's file, or a known one such as h100; without any, a GPU with a model of "
        "8 billion parameters.",
    ),
]
RoleDevice = Annotated[
    str | None, typer.Option(metavar="FILE|NAME", help="The device of this role's workers.")
]
ModelOption = Annotated[
    Path | None,
    typer.Option(help="A model's directory, whose shape and a device's figures give step times."),
]
TensorParallel = Annotated[int, typer.Option(help="Devices of a worker.", min=1)]
RoleTensorParallel = Annotated[
    int | None, typer.Option(help="Devices of a worker of this role.", min=1)
]
Target = Annotated[str | None, typer.Option(metavar="S", help="Seconds, or as 500ms.")]
Seed = Annotated[int, typer.Option(help="Of requests and step times.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON for each policy.")]
Count = Annotated[
    int | None,
    typer.Option(help="Most requests; 1000 by default, and all of a mix that ends.", min=1),
]
Skip = Annotated[int, typer.Option(help="Leave out so many requests of a file first.", min=0)]
ChunkTokens = Annotated[int, typer.Option(help="Most prompt tokens of a step.", min=1)]
BlockTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens of a KV block; 512, or 64 for conversations. Small ones take longer.", min=1
    ),
]


def simulate(
    trace: TraceOption,
    rate: Rate = None,
    policy: Policy = None,
    prefill: Workers = None,
    decode: Workers = None,
    ttft: Target = None,
    tpot: Target = None,
    device: DeviceOption = None,
    prefill_device: RoleDevice = None,
    decode_device: RoleDevice = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallel = 1,
    prefill_tensor_parallel: RoleTensorParallel = None,
    decode_tensor_parallel: RoleTensorParallel = None,
    from_status: FromStatus = None,
    chunk_tokens: ChunkTokens = 2048,
    block_tokens: BlockTokens = None,
    count: Count = None,
    skip: Skip = 0,
    seed: Seed = 1,
    json: Json = False,
) -> None:
    with reporting_errors():
        from cluster.scenario import Asked, Scenario  # other commands need no simulation
        from wire.identity import Role

        asked = Asked(
            trace=trace,
            rate=rate,
            policies=tuple(policy or [DEFAULT_POLICY]),
            num_workers={Role.PREFILL: prefill, Role.DECODE: decode},
            status=from_status,
            devices={
                Role.PREFILL: prefill_device or device,
                Role.DECODE: decode_device or device,
            },
            tensor_parallel={
                Role.PREFILL: prefill_tensor_parallel or tensor_parallel,
                Role.DECODE: decode_tensor_parallel or tensor_parallel,
            },
            model=model,
            ttft=ttft,
            tpot=tpot,
            chunk_tokens=chunk_tokens,
            block_tokens=block_tokens,
            count=count,
            skip=skip,
            seed=seed,
        )
        scenario = Scenario.of(asked)
        summaries = _run(scenario)
        if json:
            _print_json(scenario, summaries)
        else:
            _print_table(scenario, summaries)


simulate.__doc__ = HELP


def _run(scenario: Scenario) -> list[Summary]:
    """One run for each policy, with a bar on stderr where that is a terminal."""
    console = TolerantConsole(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        summaries = []
        for policy in scenario.policies:
            task = bar.add_task(policy.value, total=1.0)
            told = partial(_tell, bar, task)
            summaries.append(scenario.run(policy, told))
    return summaries


def _tell(bar: Progress, task: TaskID, share: float) -> None:
    bar.update(task, completed=share)


def _print_json(scenario: Scenario, summaries: list[Summary]) -> None:
    for summary in summaries:
        named = {"trace": scenario.trace.name, "seed": scenario.seed}
        typer.echo(encode({**named, **asdict(summary)}).decode())


def _print_table(scenario: Scenario, summaries: list[Summary]) -> None:
    from cluster.summary_table import summary_table

    workers = " and ".join(f"{pool.num_workers} {pool.role.value}" for pool in scenario.pools)
    first, console = summaries[0], TolerantConsole(highlight=False, soft_wrap=True)
    console.print(
        f"{scenario.trace.name}: {first.num_requests:,} requests, "
        f"{first.requests_per_s:.3g} a second, for {workers} workers",
        markup=False,
    )
    console.print(summary_table(summaries, scenario.targets))
    for summary in summaries:
        if summary.first_failure is not None:
            lost = f"{summary.policy} lost {summary.num_lost:,}, the first since"
            console.print(f"{lost}: {summary.first_failure}", markup=False)
