"""The command `tandem plan`: the cheapest pools of devices that serve a trace within targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.json import encode
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.console import TolerantConsole
from cluster.error_line import reporting_errors

if TYPE_CHECKING:
    from cluster.planning import Question
    from sim.plan.planner import PlanFound
    from sim.plan.trials import Trial

HELP = """Find the cheapest pools of workers that serve requests within targets.

\b
Kinds of devices, numbers of workers, tensor-parallel degrees, prefill chunks and
whether to split are searched: all pools by the capacity formula of the role
controller, the few that may be cheapest in virtual time, as `tandem simulate` does.

\b
DEVICE is a file, or the name of a known device such as h200, and how many exist:
  --device h200:16 --device h20:64
Prices are those in the files; if one has none, GPUs are counted instead.
FILE|SPEC is a trace, as for `tandem simulate`.
"""
Devices = Annotated[
    list[str], typer.Option("--device", metavar="DEVICE[:COUNT]", help="May be repeated.")
]
ModelDirectory = Annotated[
    Path, typer.Option(help="The model's directory; its config.json is enough.")
]
Requests = Annotated[
    str, typer.Option("--trace", metavar="FILE|SPEC", help="Requests, as for simulate.")
]
RateWanted = Annotated[float, typer.Option(help="Requests a second that have to be served.")]
TargetTime = Annotated[str, typer.Option(metavar="S", help="Seconds, or as 500ms.")]
Attainment = Annotated[float, typer.Option(help="Share of requests that keep each target.")]
MaxGpus = Annotated[int | None, typer.Option(help="GPUs of all pools together.")]
Shown = Annotated[
    int, typer.Option("--simulate", help="Ways to serve that are simulated and shown.", min=1)
]
WriteTo = Annotated[
    Path | None, typer.Option("--write", help="Write the cheapest for `tandem up -c`: a YAML file.")
]
PlotTo = Annotated[
    Path | None, typer.Option("--plot", help="Draw goodput over rate: .svg, .png or .pdf.")
]
Simulated = Annotated[
    int | None,
    typer.Option(
        "--count",
        help="Requests of each simulation; as many as come in 20 s, at least 500, by default.",
        min=2,
    ),
]
PlanSeed = Annotated[int, typer.Option("--seed", help="Of requests and step times.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


def plan(
    model: ModelDirectory,
    device: Devices,
    trace: Requests,
    rate: RateWanted,
    ttft: TargetTime,
    tpot: TargetTime,
    attainment: Attainment = 0.99,
    max_gpus: MaxGpus = None,
    simulate: Shown = 3,
    count: Simulated = None,
    write: WriteTo = None,
    plot: PlotTo = None,
    seed: PlanSeed = 1,
    json: AsJson = False,
) -> None:
    with reporting_errors():
        from cluster.planning import AskedPlan, Question, check_plot_file  # others need no sim

        if plot is not None:
            check_plot_file(plot)
        asked = AskedPlan(
            model=model,
            devices=tuple(device),
            trace=trace,
            rate=rate,
            ttft=ttft,
            tpot=tpot,
            attainment=attainment,
            max_gpus=max_gpus,
            count=count,
            num_shown=simulate,
            seed=seed,
        )
        question = Question.of(asked)
        found = _search(question, plot)
        _print_plan(found, question, json)
        if write is not None:
            from cluster.plan_config import write_config

            write_config(found, model, write)


plan.__doc__ = HELP


def _search(question: Question, plot: Path | None) -> PlanFound:
    """The plan, and its plot, with a bar on stderr where that is a terminal."""
    console = TolerantConsole(stderr=True)
    columns = (BarColumn(pulse_style="cyan"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("the formula", total=None)

        def tell(trial: Trial) -> None:
            outcome = "serves" if trial.passed else "does not serve"
            words = f"{trial.choice.label} {outcome} {trial.requests_per_s:.3g}/s"
            bar.update(task, description=words)

        found = question.answer(tell)
        if plot is not None:
            bar.update(task, description="the plot")
            question.draw(found, plot)
    return found


def _print_plan(found: PlanFound, question: Question, json: bool) -> None:
    if json:
        from sim.plan.findings import as_json

        typer.echo(encode({**as_json(found), "seed": question.seed}).decode())
        return
    from cluster.plan_table import show_plan

    show_plan(found, question.reasons, TolerantConsole(highlight=False, soft_wrap=True))
