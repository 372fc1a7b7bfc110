"""Rates of KV block transfers to another process, compared with other means.

    python -m benchmarks.transfer [--quick] [--tcp] [--plot FILE.svg]

Both processes are on this machine; over NIXL, UCX chooses the transport, or takes TCP. Results
are medians over rounds in which all paths alternate, and ratios are within a round. Takes one to
three minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.pool import LOOPBACK
from benchmarks.transfer import costs, flows, layouts, plot, rates, tables
from benchmarks.transfer.rates import KIB, MIB, Rates

ROUNDS, QUICK_ROUNDS = 9, 3
QUICK_TOTALS = rates.TOTALS[:-1]
MIN_OF_COPY = {256 * KIB: 0.75, 64 * KIB: 0.5}
"""Minimum rate for 128 MiB in blocks of these sizes over shared memory, relative to a memory
copy."""
MAX_FIXED_S = 10e-6


@dataclass(frozen=True, slots=True)
class Bar:
    """A criterion, and whether it was met."""

    name: str
    found: str
    met: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'missed'}  {self.name}: {self.found}"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds, up to 16 MiB.")] = False,
    tcp: Annotated[bool, typer.Option("--tcp", help="NIXL over TCP alone.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Where to draw the rates: .svg or .png.")
    ] = None,
) -> None:
    console = Console()
    if plot_file is not None and not plot.can_plot():
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib")
    rounds = QUICK_ROUNDS if quick else ROUNDS
    totals = QUICK_TOTALS if quick else rates.TOTALS
    ucx_env = {**LOOPBACK, "UCX_TLS": "tcp"} if tcp else LOOPBACK
    measured, cpu_costs = rates.measure(rounds, totals, ucx_env)
    for scattered in (False, True):
        console.print(tables.rates_table(measured, scattered))
    console.print(tables.cpu_table(cpu_costs))
    results = list(layouts.measure(rounds, ucx_env))
    console.print(tables.layouts_table(results))
    console.print(tables.cost_line(results))
    console.print(tables.flows_table(flows.measure(rounds, ucx_env)))
    console.print(tables.digests_table(costs.checksums(rounds, ucx_env)))
    fixed_s = costs.fixed_s(ucx_env)
    console.print(f"a prepared write of one block of 4 KiB: {fixed_s * 1e6:.1f} us")
    if not tcp:
        for bar in _bars(measured, fixed_s):
            console.print(str(bar))
    if plot_file is not None:
        plot.save(measured, plot_file)


def _bars(measured: list[Rates], fixed_s: float) -> Iterator[Bar]:
    for found in measured:
        case = found.case
        least = MIN_OF_COPY.get(case.block_bytes)
        if case.total_bytes == 128 * MIB and case.scattered and least is not None:
            share = found.of_copy("NIXL")
            name = f"128 MiB in {tables.size(case.block_bytes)} blocks, {least} of memory copy"
            yield Bar(name, f"{share:.2f}", share >= least)
    name = f"a prepared write below {MAX_FIXED_S * 1e6:.0f} us"
    yield Bar(name, f"{fixed_s * 1e6:.1f} us", fixed_s < MAX_FIXED_S)


if __name__ == "__main__":
    typer.run(main)
