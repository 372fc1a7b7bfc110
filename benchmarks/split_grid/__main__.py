"""When splitting pays, and whether roles that follow the load find it.

    python -m benchmarks.split_grid [--traces DIR] [--targets 9,12,15,20,30,60] [--rates 0.5,1,2]
        [--workloads 2048/128,azure-code] [--from 2,4,6] [--seed 1] [--windows 3] [--json FILE]

Eight workers of `sim`'s machine model in virtual time. Targets for the time per output token are
in ms; a bare step takes 6 ms. Rates are multiples of what the best assignment of roles is predicted
to serve. Goodput is the share of all requests that were complete within both targets; a first token
may take a second and three times what its prompt takes alone. `auto`, whose roles follow the load
from each ratio of prefill and decode workers at the start, is compared with never splitting and
with always splitting at every fixed ratio that could be the best. All have the same requests,
settings and admission, and before them come a few of the same kind, so that the router knows what
steps take and how long such answers are. Without traces only made-up lengths are served. With
`--device` bandwidth-poor has twice the step and time per context token, compute-poor thrice
the time per prompt token.
"""

from __future__ import annotations

import enum
import statistics
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.split_grid import plot
from benchmarks.split_grid.cells import Outcome, cells, measure
from benchmarks.split_grid.workloads import MADE_UP, RECORDED
from sim.machine import MachineModel

EACH, MEAN, OVER_NEVER = 0.98, 1.0, 1.3
"""Bars: `auto` over the reference in each cell and on the mean, and over never splitting."""
STRICT = 2.0
"""Targets up to this many bare steps are to gain OVER_NEVER."""
WIDTH = 110
"""Columns of a terminal that the table needs."""
DEFAULT = MachineModel()


class DeviceName(enum.Enum):
    USUAL = "usual"
    BANDWIDTH_POOR = "bandwidth-poor"
    COMPUTE_POOR = "compute-poor"


MACHINES = {
    DeviceName.USUAL: DEFAULT,
    DeviceName.BANDWIDTH_POOR: msgspec.structs.replace(
        DEFAULT, step_s=2 * DEFAULT.step_s, context_token_s=2 * DEFAULT.context_token_s
    ),
    DeviceName.COMPUTE_POOR: msgspec.structs.replace(
        DEFAULT,
        prompt_token_s=3 * DEFAULT.prompt_token_s,
        prompt_pair_s=3 * DEFAULT.prompt_pair_s,
    ),
}


def main(
    traces_dir: Annotated[
        Path | None, typer.Option("--traces", help="Where the trace files lie.")
    ] = None,
    workloads: Annotated[str, typer.Option(help="With commas.")] = ",".join((*MADE_UP, *RECORDED)),
    targets: Annotated[str, typer.Option(help="TPOT targets in ms.")] = "9,12,15,20,30,60",
    rates: Annotated[str, typer.Option(help="Multiples of saturation.")] = "0.5,0.8,1,1.3,2",
    ratios: Annotated[str, typer.Option("--from", help="Prefill workers at the start.")] = "2,4,6",
    seed: Annotated[int, typer.Option(help="Of made-up requests.")] = 1,
    windows: Annotated[str, typer.Option(help="Parts of a trace, or further seeds.")] = "3",
    seconds: Annotated[float, typer.Option(help="Virtual time of a cell.")] = 10.0,
    device: Annotated[DeviceName, typer.Option(help="Coefficients.")] = DeviceName.USUAL,
    processes: Annotated[int, typer.Option(help="Processes that measure cells.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write it all.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="An .svg of the gain.")] = None,
) -> None:
    plot.require(plot_file)
    chosen = cells(
        workloads.split(","),
        [float(each) / 1e3 for each in targets.split(",")],
        [float(each) for each in rates.split(",")],
        [int(each) for each in ratios.split(",")],
        traces_dir=traces_dir,
        seed=seed,
        windows=[int(each) for each in windows.split(",")],
        seconds=seconds,
        machine=MACHINES[device],
    )
    todo = list(chosen)
    console = Console(width=max(WIDTH, Console().width))
    with Pool(processes) as pool:
        measured = pool.imap(measure, todo)
        found = list(track(measured, "cells", len(todo), console=Console(stderr=True)))
    _show(console, found)
    _judge(console, found, MACHINES[device].step_s)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.encode(found))
    if plot_file is not None:
        plot.save(found, plot_file)


def _show(console: Console, found: list[Outcome]) -> None:
    table = Table(title="goodput, eight workers")
    for column in (
        *("workload", "win", "ms", "x", "req/s", "never", "fixed"),
        *(found[0].auto if found else ()),
        *("worst", "CPU s"),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        best = each.best_fixed
        table.add_row(
            each.workload,
            str(each.window),
            f"{each.tpot_s * 1e3:g}",
            f"{each.multiple:g}",
            f"{each.requests_per_s:.1f}",
            f"{each.never.goodput:.3f}",
            f"{each.always[best].goodput:.3f} {best}",
            *(f"{arm.goodput:.3f} >{arm.num_prefill}" for arm in each.auto.values()),
            f"{min(each.ratios):.3f}",
            f"{each.cpu_s:.0f}",
        )
    console.print(table)


def _judge(console: Console, found: list[Outcome], step_s: float) -> None:
    ratios = [ratio for each in found for ratio in each.ratios]
    if not ratios:
        console.print("no cells: the traces of these workloads are not there (--traces)")
        return
    missed = sum(ratio < EACH for ratio in ratios)
    worst, mean = min(ratios), statistics.fmean(ratios)
    _say(console, worst >= EACH, f"in every cell {EACH} of the better: worst {worst:.3f}")
    console.print(f"        {missed} of {len(ratios)} are below")
    _say(console, mean >= MEAN, f"on the mean {MEAN} of the better: {mean:.4f}")
    strict = [each.over_never for each in found if each.tpot_s <= STRICT * step_s + 1e-9]
    if strict:
        gain = statistics.fmean(strict)
        words = f"up to {STRICT:g} steps {OVER_NEVER} times never, on the mean: {gain:.2f}"
        _say(console, gain >= OVER_NEVER, words)


def _say(console: Console, met: bool, words: str) -> None:
    console.print(f"{'met   ' if met else 'missed'}  {words}")


if __name__ == "__main__":
    typer.run(main)
