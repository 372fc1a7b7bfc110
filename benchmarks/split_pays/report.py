"""Figures of all runs, as a table and as verdicts."""

from __future__ import annotations

import statistics

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.split_pays.clusters import AUTO, NEVER, POLICIES, Policy

BARS = {2.0: 1.2, 6.0: 0.98}
"""Least goodput of auto beside never, by the target in bare steps."""
SIMULATED_WITHIN = 0.1


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run: shares of requests that were good, measured and simulated."""

    policy: str
    target: float
    num_requests: int
    goodput: float
    simulated: float
    refused: float
    ttft_p50_s: float | None
    tpot_p50_s: float | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, and the costs from which targets and rates follow."""

    step_s: float
    prompt_token_s: float
    sequence_s: float
    rates: dict[str, float]
    """Requests a second, by target."""
    runs: list[RunResult]


def show(finding: Finding) -> None:
    """Print what steps take, the table, and which bars are met."""
    console = Console(width=120)
    console.print(
        f"a bare step takes {finding.step_s * 1e3:.1f} ms, a prompt's token "
        f"{finding.prompt_token_s * 1e3:.2f} ms, a sequence more {finding.sequence_s * 1e3:.1f} ms"
    )
    console.print(_table(finding))
    for target in sorted({run.target for run in finding.runs}):
        for line in _verdicts([run for run in finding.runs if run.target == target], target):
            console.print(line)


def _table(finding: Finding) -> Table:
    table = Table(title="two workers of one thread; medians over runs")
    columns = ("TPOT target", "requests/s", "policy", "goodput", "of runs", "simulated", "refused")
    for column in (*columns, "TTFT p50 s", "TPOT p50 ms"):
        table.add_column(column, justify="right")
    for target in sorted({run.target for run in finding.runs}):
        for policy in POLICIES:
            runs = _of(finding.runs, target, policy)
            each = sorted(run.goodput for run in runs)
            table.add_row(
                f"{target:g} steps",
                f"{finding.rates[f'{target:g}']:.2f}",
                policy.name,
                f"{statistics.median(each):.3f}",
                f"{each[0]:.2f} to {each[-1]:.2f}",
                f"{statistics.median(run.simulated for run in runs):.3f}",
                f"{statistics.median(run.refused for run in runs):.2f}",
                f"{statistics.median(run.ttft_p50_s or 0.0 for run in runs):.2f}",
                f"{1e3 * statistics.median(run.tpot_p50_s or 0.0 for run in runs):.1f}",
            )
    return table


def _of(runs: list[RunResult], target: float, policy: Policy) -> list[RunResult]:
    return [run for run in runs if (run.target, run.policy) == (target, policy.name)]


def _verdicts(runs: list[RunResult], target: float) -> list[str]:
    """Lines for the ratio, where there is a bar for it, and for the simulation of each policy."""
    measured, simulated = dict[Policy, float](), dict[Policy, float]()
    for policy in POLICIES:
        of = _of(runs, target, policy)
        measured[policy] = statistics.median(run.goodput for run in of)
        simulated[policy] = statistics.median(run.simulated for run in of)
    lines = []
    if target in BARS:
        ratio = measured[AUTO] / max(1e-9, measured[NEVER])
        lines.append(f"{_met(ratio >= BARS[target])}  {target:g} steps: {ratio:.2f} × never")
    for policy, found in measured.items():
        off = simulated[policy] / max(1e-9, found) - 1
        met = _met(abs(off) <= SIMULATED_WITHIN)
        lines.append(f"{met}  {target:g} steps, {policy.name}: the simulation says {off:+.0%}")
    return lines


def _met(bar: bool) -> str:
    return "met   " if bar else "missed"
