"""Goodput of roles that follow a mix that changes, beside every fixed assignment, in virtual time.

    python -m benchmarks.changing_mix [--tpot 12,15] [--seeds 1,2,3] [--phase-s 60]
                                      [--kinds follow:4,never:4,always:1,…]

Eight workers of `sim`'s machine model, prefill chunks of 2,048 tokens. Traffic changes twice: long
prompts, long answers, conversations, each for `--phase-s` seconds, at RATES. A kind is `follow`
(roles follow the load), `never` or `always` (fixed roles; whether requests are split), with the
number of prefill workers at the start. A first token may take a second and three times what its
prompt takes alone. `goodput` is the mean over the three phases, so that each counts for the time
that it lasts, and `requests` the share of all requests.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.changing_mix.run import Outcome, mix, serve
from benchmarks.changing_mix.traffic import PHASE_S, PHASES

NUM_WORKERS = 8
FIXED = ("never:4", *(f"always:{number}" for number in range(1, NUM_WORKERS)))
FOLLOW = "follow:4"
RATES = {12.0: (35.0, 105.0, 79.0), 15.0: (37.0, 135.0, 94.0)}
"""Requests a second in each phase, by the target in ms: 0.9 of the rate at which the best fixed
assignment of that phase alone has a goodput of 0.95."""


def main(
    tpot: Annotated[str, typer.Option(help="Targets per output token in ms, with commas.")] = (
        "12,15"
    ),
    seeds: Annotated[str, typer.Option(help="Of arrivals and lengths, with commas.")] = "1,2,3",
    phase_s: Annotated[float, typer.Option(help="How long each phase lasts.")] = PHASE_S,
    kinds: Annotated[str, typer.Option(help="Which, with commas.")] = ",".join((FOLLOW, *FIXED)),
) -> None:
    console = Console()
    for tpot_ms in map(float, tpot.split(",")):
        for seed in map(int, seeds.split(",")):
            _compare(console, tpot_ms, seed, phase_s, kinds.split(","))


def _compare(console: Console, tpot_ms: float, seed: int, phase_s: float, kinds: list[str]) -> None:
    load = mix(RATES[tpot_ms], phase_s, seed)
    table = Table(title=f"TPOT target {tpot_ms:g} ms, seed {seed}, {len(load)} requests")
    names = [phase.name for phase in PHASES]
    for column in ("", "goodput", "requests", *names, "lost", "changes"):
        table.add_column(column, justify="right")
    found = {kind: serve(kind, NUM_WORKERS, tpot_ms / 1e3, load, phase_s) for kind in kinds}
    for kind, outcome in found.items():
        parts = (outcome.goodput, outcome.of_requests, *outcome.by_phase)
        counts = (outcome.num_lost, len(outcome.changes))
        table.add_row(kind, *(f"{part:.3f}" for part in parts), *map(str, counts))
    console.print(table)
    _sum_up(console, found, phase_s)


def _sum_up(console: Console, found: dict[str, Outcome], phase_s: float) -> None:
    fixed = {kind: each.goodput for kind, each in found.items() if not kind.startswith("follow")}
    for kind in found.keys() - fixed.keys():
        outcome = found[kind]
        if fixed:
            best = max(fixed, key=lambda each: fixed[each])
            console.print(f"{kind}: {outcome.goodput / fixed[best]:.3f} × the best fixed, {best}")
        for number, phase in enumerate(PHASES):
            begin, end = number * phase_s, (number + 1) * phase_s
            times = [f"{at - begin:.1f}" for at in outcome.changes if begin <= at < end]
            console.print(f"{kind}: roles change {', '.join(times)} s into {phase.name}")


if __name__ == "__main__":
    typer.run(main)
