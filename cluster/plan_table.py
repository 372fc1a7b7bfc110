"""The plan as a person reads it: a table of candidates, and what binds them in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from cluster.summary_table import ABSENT, price
from sim.plan.findings import Row, rows, verdict
from sim.plan.planner import PlanFound
from sim.plan.pool_choice import Needs


def show_plan(found: PlanFound, reasons: Sequence[str], console: Console) -> None:
    """Print it; `reasons` say which workers were left out."""
    shown = rows(found)
    needs, traffic = found.needs, found.traffic
    console.print(
        f"{needs.requests_per_s:g} requests/s of {traffic.uncached_tokens:,.0f} new prompt tokens "
        f"and {traffic.answer_tokens:,.0f} answer tokens; first token within {needs.ttft_s:g} s, "
        f"{1e3 * needs.tpot_s:g} ms for each further one, for {needs.attainment:.1%} of requests",
        markup=False,
    )
    console.print(plan_table(shown, needs))
    for number, row in enumerate(shown, 1):
        console.print(f"{number}: {row.why}", markup=False)
    console.print(verdict(found), markup=False, style="bold")
    for reason in reasons:
        console.print(f"left out: {reason}", markup=False, style="dim")
    console.print(
        f"{found.num_considered:,} pools by the formula, {found.num_trials} trials in the "
        "simulation",
        style="dim",
    )


def plan_table(shown: Sequence[Row], needs: Needs) -> Table:
    """One column for each candidate, the cheapest first."""
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("", no_wrap=True)
    for number, row in enumerate(shown, 1):
        style = None if row.passed else "dim"
        table.add_column(str(number), justify="right", no_wrap=True, style=style)
    for label, values in _lines(shown, needs):
        table.add_row(label, *values)
    return table


def _lines(shown: Sequence[Row], needs: Needs) -> Iterator[tuple[str, list[str]]]:
    yield "prefill", [_prefill(row) for row in shown]
    if any(row.split for row in shown):
        yield "  chunk tokens", [_whole(row.prefill_chunk_tokens) for row in shown]
    yield "decode", [_workers(row.decode_workers, row.decode) for row in shown]
    yield "GPUs", [_gpus(row) for row in shown]
    if any(row.cost_per_hour is not None for row in shown):
        yield "cost per hour", [price(row.cost_per_hour) for row in shown]
        yield "  per 1M answer tokens", [price(row.cost_per_million_tokens) for row in shown]
    else:
        hours = [f"{row.gpu_hours_per_million_tokens:.3g}" for row in shown]
        yield "GPU hours per 1M answer tokens", hours
    yield f"TTFT within {needs.ttft_s:g} s", [f"{row.ttft_attainment:.1%}" for row in shown]
    yield f"TPOT within {1e3 * needs.tpot_s:g} ms", [f"{row.tpot_attainment:.1%}" for row in shown]
    yield "headroom", [_headroom(row) for row in shown]
    yield "binds", [row.binds for row in shown]


def _prefill(row: Row) -> str:
    return _workers(row.prefill_workers, row.prefill) if row.prefill else "not split"


def _workers(count: int, kind: str) -> str:
    return f"{count} × {kind}"


def _gpus(row: Row) -> str:
    """The number by kind of device: "8 h200 + 4 h20"."""
    return " + ".join(f"{count} {device}" for device, count in row.gpus.items())


def _whole(value: int | None) -> str:
    return ABSENT if value is None else f"{value:,}"


def _headroom(row: Row) -> str:
    if not row.passed:
        return "misses targets"
    if row.headroom_is_open:
        return f"over {row.headroom:.0%}"
    return f"{row.headroom:.0%}" if row.headroom else "under 5%"
