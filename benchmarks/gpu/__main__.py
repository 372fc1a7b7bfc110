"""The first thing to run on a GPU: what is right there, and how fast it is.

    python -m benchmarks.gpu [--json FILE] [PART ...]

Parts run one after the other, each in a process of its own with a limit on its time; what one finds
is printed at once, and when one fails the next goes on. docs/gpu.md says what each part means. The
exit status is 0 if every part that was asked for is right, 1 if not, and 130 after Ctrl-C. With
`--device cpu` everything runs in a reduced form, as the tests do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.gpu import summary
from benchmarks.gpu.finding import Finding
from benchmarks.gpu.isolated import run_isolated
from benchmarks.gpu.part import PARTS, Outcome, Part, find_parts
from engine.device.cuda_problem import cuda_problem

INTERRUPTED = 130
UNFINISHED = -1
"""The exit status in the JSON file while parts are still to come."""
CPU_PATIENCE = 5
"""Factor of the parts' limits on a CPU, which may be busy with something else."""
LEAST_S = 5.0
"""No part is started with less time than this."""


class Report(msgspec.Struct):
    """The JSON file."""

    device: str
    attention: str
    seconds: float
    exit_status: int
    parts: list[Outcome]


def main(
    part: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(it.name for it in PARTS)}; or all.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write it all.")] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    attention: Annotated[
        str, typer.Option(help="Of the workers that are started: auto, torch or flashinfer.")
    ] = "auto",
    within: Annotated[float, typer.Option(help="Seconds for everything.")] = 480,
) -> None:
    try:
        parts = find_parts(part or [])
    except KeyError as error:
        raise typer.BadParameter(error.args[0]) from error
    device = "cuda:0" if device == "cuda" else device
    problem = None if device == "cpu" else cuda_problem()
    if problem is not None:
        print(f"no GPU here that PyTorch can use: {problem}", flush=True)
        parts = find_parts(["versions"])
    run = _Run(parts, device, attention, json_path)
    outcomes = _run_all(parts, device if problem is None else "cpu", attention, within)
    raise typer.Exit(run.take(outcomes, usable=problem is None))


@dataclass(slots=True)
class _Run:
    """Keeps what the parts have found, in the JSON file too, and closes with the summary."""

    parts: Sequence[Part]
    device: str
    attention: str
    json_path: Path | None
    outcomes: list[Outcome] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def take(self, outcomes: Iterable[Outcome], *, usable: bool) -> int:
        """All outcomes as they come; returns the exit status, which is not 0 without a GPU."""
        status = None
        try:
            for outcome in outcomes:
                self.outcomes.append(outcome)
                self._save(UNFINISHED)
                status = INTERRUPTED if outcome.interrupted else None
        except KeyboardInterrupt:  # between two parts
            status = INTERRUPTED
        if status is None:
            status = summary.exit_status(self.parts, self.outcomes) if usable else 1
        self._save(status)
        self._close(status)
        return status

    def _save(self, status: int) -> None:
        if self.json_path is None:
            return
        seconds = time.monotonic() - self.started
        report = Report(self.device, self.attention, seconds, status, self.outcomes)
        self.json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))

    def _close(self, status: int) -> None:
        lines = [*summary.table(self.parts, self.outcomes), *summary.bars(self.outcomes)]
        last = summary.what_to_send(self.json_path, self.device, status)
        print("\n".join(["", *lines, "", last]), flush=True)


def _run_all(
    parts: Sequence[Part], device: str, attention: str, within: float
) -> Iterator[Outcome]:
    """Run the parts, within so many seconds, up to one that Ctrl-C ends."""
    until = time.monotonic() + within
    for part in parts:
        left = until - time.monotonic()
        print(f"\n{part.name}: {part.title}", flush=True)
        if left < LEAST_S:
            print("  not run: the time is over; run it alone, or give more with --within")
            continue
        limit_s = min(part.limit_s * (CPU_PATIENCE if device == "cpu" else 1), left)
        outcome = run_isolated(part, device, attention, limit_s, _show)
        print("\n".join([*summary.log_tail(outcome), f"  {outcome.seconds:.0f} s"]), flush=True)
        yield outcome
        if outcome.interrupted:
            return


def _show(finding: Finding) -> None:
    print(finding, flush=True)


if __name__ == "__main__":
    typer.run(main)
