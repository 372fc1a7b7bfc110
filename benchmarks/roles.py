"""Goodput of roles that follow the load, beside fixed assignments, in virtual time.

    python -m benchmarks.roles [--count 600] [--seed 1] [--settings 9:30,12:45,12:60,30:60]

Eight workers of `sim`'s machine model, prefill chunks of 2,048 tokens. Prompts have 2,048 tokens on
average and answers 128 (log-normal), arrivals are Poisson's; a setting is a target for the time per
output token in ms, and requests a second. A first token may take a second and three times what its
prompt takes alone. Every run begins with a few seconds of light traffic, in which workers tell what
their steps take.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.placement.policies import Setting, goodput, pools_of
from router.config import Roles
from router.placing.placement_request import Split
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster
from sim.traces import Arrival
from sim.traces.generate import poisson
from sim.warm_up import NUM_WARM, after_warm_up

NUM_WORKERS = 8
PROMPT, ANSWER = 2048, 128
CHUNK_TOKENS = 2048
FOLLOW_FROM, FIXED = (2, 4, 6), (4, 5)


def main(
    count: Annotated[int, typer.Option(help="Requests of a run.")] = 600,
    seed: Annotated[int, typer.Option(help="Of arrivals and lengths.")] = 1,
    settings: Annotated[
        str, typer.Option(help="TPOT target in ms and requests/s, with commas.")
    ] = "9:30,12:45,12:60,30:60",
) -> None:
    table = Table(title="goodput, eight workers")
    follow = [f"follow from {number}" for number in FOLLOW_FROM]
    always = [f"always {number}:{NUM_WORKERS - number}" for number in FIXED]
    for column in ("TPOT ms", "requests/s", *follow, "never split", *always):
        table.add_column(column, justify="right")
    for setting in settings.split(","):
        target_ms, rate = map(float, setting.split(":"))
        load = poisson(PROMPT, ANSWER, rate, count, seed)
        kinds = [(Roles.FOLLOW, Split.AUTO, number) for number in FOLLOW_FROM]
        kinds += [(Roles.FIXED, Split.NEVER, NUM_WORKERS // 2)]
        kinds += [(Roles.FIXED, Split.ALWAYS, number) for number in FIXED]
        found = [f"{serve(load, target_ms / 1e3, *kind):.3f}" for kind in kinds]
        table.add_row(f"{target_ms:g}", f"{rate:g}", *found)
    Console().print(table)


def serve(
    load: list[Arrival], tpot_s: float, roles: Roles, split: Split, num_prefill: int
) -> float:
    """The goodput from so many prefill workers at the start."""
    setting = Setting(MachineModel(), num_prefill, NUM_WORKERS - num_prefill, tpot_s=tpot_s)
    router = RouterSettings(max_queued=setting.max_queued, split=split, roles=roles)
    served = SimulatedCluster(pools_of(setting, CHUNK_TOKENS), router).run(
        after_warm_up(load), setting.slo
    )
    return goodput(served[NUM_WARM:])


if __name__ == "__main__":
    typer.run(main)
