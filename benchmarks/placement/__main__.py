"""Goodput of this router's placement and admission beside others', and what a decision takes.

    python -m benchmarks.placement [--traces DIR] [--quick] [--plot FILE.svg]

Goodput is the share of requests that are complete within their targets for the first token and
for each further one. Requests come from recorded traces, faster or slower than recorded; engines
and schedulers are the real ones on a virtual clock, and steps take what a model of 8 billion
parameters takes on a GPU. Without the traces only made-up traffic is served. Takes ten minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.placement import decisions, overload, plot, traces
from benchmarks.placement.machine import Device
from benchmarks.placement.policies import (
    ALWAYS,
    NEVER,
    OURS,
    POLICIES,
    ROUND_ROBIN,
    Setting,
    goodput,
    run,
)
from benchmarks.placement.traces import Arrival

Sweep = dict[float, dict[str, float]]
"""For each rate, in requests a second, the goodput of each policy."""

FILES = {
    "Mooncake conversation": ("mooncake_conversation_trace.jsonl", (4.0, 5.0, 6.0, 7.0)),
    "Azure code": ("azure2023_code.csv", (15.0, 20.0, 25.0, 30.0)),
}
MADE_UP = ("made-up conversations", (20.0, 40.0))
OVER_ROUND_ROBIN, OVER_BETTER = 1.3, 1.0
MAX_P99_US = 1000.0


def main(
    traces_dir: Annotated[
        Path | None, typer.Option("--traces", help="Where the trace files lie.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A third of the requests.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Where to draw the goodput: .svg or .png.")
    ] = None,
) -> None:
    console = Console()
    if plot_file is not None and not plot.can_plot():
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib")
    _show_decisions(console)
    count = 130 if quick else 400
    sweeps = {}
    for name, arrivals, rates in _loads(console, traces_dir, count):
        sweeps[name] = sweep(arrivals, rates, Setting(Device()))
        _show(console, name, sweeps[name])
    overload.show(console, 700 if quick else 2000)
    if plot_file is not None:
        plot.save(sweeps, plot_file)


def sweep(arrivals: list[Arrival], rates: tuple[float, ...], setting: Setting) -> Sweep:
    return {
        rate: {
            policy: goodput(run(policy, traces.at_rate(arrivals, rate), setting))
            for policy in POLICIES
        }
        for rate in rates
    }


def _loads(
    console: Console, traces_dir: Path | None, count: int
) -> list[tuple[str, list[Arrival], tuple[float, ...]]]:
    readers = {".jsonl": traces.mooncake, ".csv": traces.azure}
    loads: list[tuple[str, list[Arrival], tuple[float, ...]]] = []
    for name, (file_name, rates) in FILES.items():
        file = None if traces_dir is None else traces_dir / file_name
        if file is None or not file.exists():
            console.print(f"{name}: left out, there is no {file or file_name + ' (--traces)'}")
            continue
        loads.append((name, readers[file.suffix](file, count), rates))
    made_up, few_rates = MADE_UP
    return [*loads, (made_up, traces.synthetic(count), few_rates)]


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
    for column in ("requests/s", *POLICIES, "x round robin", "x better of always, never"):
        table.add_column(column, justify="right")
    bars_met = True
    for rate, goods in found.items():
        over_robin = goods[OURS] / max(1e-9, goods[ROUND_ROBIN])
        over_better = goods[OURS] / max(1e-9, goods[ALWAYS], goods[NEVER])
        bars_met &= over_robin >= OVER_ROUND_ROBIN and over_better >= OVER_BETTER
        shares = [f"{goods[policy]:.3f}" for policy in POLICIES]
        table.add_row(f"{rate:g}", *shares, f"{over_robin:.2f}", f"{over_better:.2f}")
    console.print(table)
    console.print(
        f"{'met   ' if bars_met else 'missed'}  at every rate {OVER_ROUND_ROBIN} x round robin and "
        f"{OVER_BETTER} x the better of always and never splitting"
    )


if __name__ == "__main__":
    typer.run(main)
