"""The figures of simulated runs as a table: a row for each figure, a column for each policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from router.placing.placement_request import Slo
from sim.summary import Percentiles, Summary

ABSENT = "–"
Row = tuple[str, list[str]]


def summary_table(summaries: Sequence[Summary], targets: Slo) -> Table:
    """At least one summary; all of the same requests and workers."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for summary in summaries:
        table.add_column(summary.policy, justify="right", no_wrap=True)
    for label, values in _rows(summaries, targets):
        table.add_row(label, *values)
    return table


def seconds(value: float | None) -> str:
    """In the unit in which it is easiest to read."""
    if value is None:
        return ABSENT
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:,.2f} s"


def _rows(summaries: Sequence[Summary], targets: Slo) -> Iterator[Row]:
    yield "[bold]goodput[/]", [f"[bold]{_percent(it.goodput)}[/]" for it in summaries]
    if targets.ttft_s is not None:
        label = f"  TTFT within {seconds(targets.ttft_s)}"
        yield label, [_percent(it.ttft_attainment) for it in summaries]
    if targets.tpot_s is not None:
        label = f"  TPOT within {seconds(targets.tpot_s)}"
        yield label, [_percent(it.tpot_attainment) for it in summaries]
    yield "good requests/s", [f"{it.good_per_s:.3g}" for it in summaries]
    yield from _percentiles("TTFT", [it.ttft_s for it in summaries])
    yield from _percentiles("TPOT", [it.tpot_s for it in summaries])
    yield "split", [_percent(it.split_share) for it in summaries]
    yield "cached prompt tokens", [_percent(it.cached_share) for it in summaries]
    yield from _workers(summaries)
    yield "answer tokens/s each", [f"{it.tokens_per_s_per_worker:,.0f}" for it in summaries]
    prompts = [f"{it.prompt_tokens_per_s_per_worker:,.0f}" for it in summaries]
    yield "prompt tokens/s each", prompts
    yield "refused", [f"{it.num_refused:,}" for it in summaries]
    yield "lost", [f"{it.num_lost:,}" for it in summaries]
    yield "role changes", [f"{it.num_role_changes:,}" for it in summaries]
    if any(it.cost_per_hour is not None for it in summaries):
        yield "cost per hour", [price(it.cost_per_hour) for it in summaries]
        yield "  per 1M answer tokens", [price(it.cost_per_million_tokens) for it in summaries]


def _percentiles(name: str, columns: Sequence[Percentiles]) -> Iterator[Row]:
    yield f"{name} p50", [seconds(it.p50) for it in columns]
    yield "     p90", [seconds(it.p90) for it in columns]
    yield "     p99", [seconds(it.p99) for it in columns]


def _workers(summaries: Sequence[Summary]) -> Iterator[Row]:
    """The mean number in each role, and how much of their time they computed."""
    for role in dict.fromkeys(role for it in summaries for role in it.workers):
        yield f"{role} workers", [f"{it.workers.get(role, 0):.3g}" for it in summaries]
        yield "  busy", [_percent(it.busy_share.get(role)) for it in summaries]


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{share:.1%}"


def price(value: float | None) -> str:
    """With two digits; ABSENT where there is none."""
    return ABSENT if value is None else f"{value:,.2f}"
