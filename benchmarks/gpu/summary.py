"""The end of the script's output: a table of the parts, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.finding import Kind
from benchmarks.gpu.part import Outcome, Part

SHOWN_LOG_LINES = 12


def table(parts: Sequence[Part], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One line for each part that was asked for."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    yield f"{'part':12} {'':11} {'s':>4}  green  red  bars met  missed  skipped"
    for part in parts:
        outcome = by_name.get(part.name)
        yield f"{part.name:12} not run" if outcome is None else _row(outcome)


def _row(outcome: Outcome) -> str:
    kinds = (Kind.GREEN, Kind.RED, Kind.MET, Kind.MISSED, Kind.SKIPPED)
    green, red, met, missed, skipped = map(outcome.count, kinds)
    red += outcome.count(Kind.FAILED)
    return (
        f"{outcome.name:12} {outcome.verdict:11} {outcome.seconds:4.0f}  "
        f"{green:5}  {red:3}  {met:8}  {missed:6}  {skipped:7}"
    )


def bars(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Every speed that is wanted, and whether it was reached."""
    for outcome in outcomes:
        for finding in outcome.findings:
            if finding.kind in (Kind.MET, Kind.MISSED):
                yield str(finding)


def exit_status(parts: Sequence[Part], outcomes: Sequence[Outcome]) -> int:
    """0 if every part that was asked for ran, and is right."""
    ran = len(outcomes) == len(parts)
    return 0 if ran and all(outcome.right for outcome in outcomes) else 1


def log_tail(outcome: Outcome) -> Iterator[str]:
    """The last lines that a part which failed has written."""
    yield from (f"    | {line}" for line in outcome.log[-SHOWN_LOG_LINES:])


def what_to_send(json_path: Path | None, device: str, status: int) -> str:
    """The last paragraph."""
    if device == "cpu":
        return (
            "This was the reduced form on a CPU: it shows that the script runs, and nothing about "
            "a GPU. There is nothing to send."
        )
    what = (
        f"{json_path}, which has everything that is above and the logs of what failed"
        if json_path is not None
        else "all that is printed above (with --json FILE it is one file, with longer logs)"
    )
    verdict = (
        "All that was asked for is right."
        if status == 0
        else "Something is red, failed or was not run: run that part alone, by its name, before "
        "you serve anybody from this machine."
    )
    return (
        f"{verdict} Please send the maintainers {what}, and the output of nvidia-smi, in an issue "
        "titled with the GPU's name, whether or not it is green: the figures go into "
        "docs/performance.md, and what is red is mended."
    )
