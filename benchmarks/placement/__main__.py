"""Goodput of this router's placement and admission beside others', and what a decision takes.

    python -m benchmarks.placement [--traces DIR] [--windows 7,10,13] [--plot FILE.svg]

Goodput is the share of requests that are complete within their targets for the first token and
for each further one. Requests come from recorded traces, faster or slower than recorded; the
cluster is that of `sim`: production's step loops, handoffs and schedulers in virtual time, where
steps take what a model of 8 billion parameters takes on a GPU. A window is so many requests that
follow each other, three times as many of the Azure trace, whose bursts are long; figures are means
over windows. The model was made with windows 0 to 4, and 5 and 6 have been looked at, so that those
have nothing to prove. Without the traces only made-up traffic is served. Takes a quarter of an
hour.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.placement import decisions, overload, plot
from benchmarks.placement.policies import (
    ALWAYS,
    NEVER,
    OURS,
    ROUND_ROBIN,
    Setting,
    goodput,
    run,
)
from sim import traces
from sim.machine import MachineModel
from sim.traces import Arrival

Sweep = dict[float, dict[str, float]]
"""For each rate, in requests a second, the goodput of each policy."""
COMPARED = (OURS, NEVER, ALWAYS, ROUND_ROBIN)

FILES = {
    "Mooncake conversation": ("mooncake_conversation_trace.jsonl", 1, (5.0, 6.0, 7.0, 9.0)),
    "Azure code": ("azure2023_code.csv", 3, (30.0, 40.0, 60.0, 80.0)),
}
"""By trace: its file, how many times the usual requests a window has, and rates."""
MADE_UP = ("made-up conversations", (20.0, 40.0, 60.0))
OVER_ROUND_ROBIN, OVER_BETTER = 1.3, 1.0
MAX_P99_US = 1000.0


def main(
    traces_dir: Annotated[
        Path | None, typer.Option("--traces", help="Where the trace files lie.")
    ] = None,
    windows: Annotated[str, typer.Option(help="Which, with commas, from 0.")] = "7,10,13",
    count: Annotated[int, typer.Option(help="Requests of a window.")] = 400,
    overload_s: Annotated[float, typer.Option(help="Seconds of threefold overload.")] = 120.0,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Where to draw the goodput: .svg or .png.")
    ] = None,
) -> None:
    console = Console()
    if plot_file is not None and not plot.can_plot():
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib")
    _show_decisions(console)
    chosen = [int(number) for number in windows.split(",")]
    sweeps = {}
    for name, load, rates in _loads(console, traces_dir, chosen, count):
        sweeps[name] = sweep(load, rates, Setting(MachineModel()))
        _show(console, name, sweeps[name])
    overload.show(console, overload_s)
    if plot_file is not None:
        plot.save(sweeps, plot_file)


def sweep(windows: list[list[Arrival]], rates: tuple[float, ...], setting: Setting) -> Sweep:
    """Means over the windows."""
    return {
        rate: {
            policy.name: statistics.fmean(
                goodput(run(policy, traces.at_rate(window, rate), setting)) for window in windows
            )
            for policy in COMPARED
        }
        for rate in rates
    }


Load = tuple[str, list[list[Arrival]], tuple[float, ...]]
"""Its name, windows, and rates."""


def _loads(console: Console, traces_dir: Path | None, windows: list[int], count: int) -> list[Load]:
    readers = {".jsonl": traces.mooncake, ".csv": traces.azure}
    loads: list[Load] = []
    for name, (file_name, times, rates) in FILES.items():
        file = None if traces_dir is None else traces_dir / file_name
        if file is None or not file.exists():
            console.print(f"{name}: left out, there is no {file or file_name + ' (--traces)'}")
            continue
        arrivals = readers[file.suffix](file, count * (max(windows) + times))
        cut = [arrivals[count * number : count * (number + times)] for number in windows]
        loads.append((name, cut, rates))
    made_up, few_rates = MADE_UP
    drawn = [traces.synthetic(count, seed=1 + number) for number in windows]
    return [*loads, (made_up, drawn, few_rates)]


def _show_decisions(console: Console) -> None:
    for num_workers in (8, 1000):
        found = decisions.measure(num_workers)
        met = "met   " if found.p99_us <= MAX_P99_US else "missed"
        console.print(
            f"{met}  one placement among {num_workers} workers, a prompt of "
            f"{decisions.NUM_TOKENS} tokens: p50 {found.p50_us:.0f} us, p99 {found.p99_us:.0f} us "
            f"of processor time; its hashes, once before: {found.hash_us / 1000:.0f} ms"
        )


def _show(console: Console, name: str, found: Sweep) -> None:
    table = Table(title=f"{name}: goodput, 4 prefill and 4 decode workers")
    for column in (
        "requests/s",
        *(policy.name for policy in COMPARED),
        "x round robin",
        "x better of always, never",
    ):
        table.add_column(column, justify="right")
    bars_met = True
    for rate, goods in found.items():
        over_robin = goods[OURS.name] / max(1e-9, goods[ROUND_ROBIN.name])
        over_better = goods[OURS.name] / max(1e-9, goods[ALWAYS.name], goods[NEVER.name])
        bars_met &= over_robin >= OVER_ROUND_ROBIN and over_better >= OVER_BETTER
        shares = [f"{goods[policy.name]:.3f}" for policy in COMPARED]
        table.add_row(f"{rate:g}", *shares, f"{over_robin:.2f}", f"{over_better:.2f}")
    console.print(table)
    console.print(
        f"{'met   ' if bars_met else 'missed'}  at every rate {OVER_ROUND_ROBIN} x round robin and "
        f"{OVER_BETTER} x the better of always and never splitting"
    )


if __name__ == "__main__":
    typer.run(main)
