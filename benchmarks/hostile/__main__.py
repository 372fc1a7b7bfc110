"""A router's memory under hostile clients.

    python -m benchmarks.hostile --seconds 600

Clients of every kind in `attacks.py` attack one router at once, again and again: they reset their
connections, half-close them, send headers and bodies slowly, pipeline, and never read. Prints the
router's resident memory over time, and its growth after all clients have gone; more than 20 MB is
a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from benchmarks.hostile.attacks import ATTACKS, Aim, Attack
from benchmarks.router.cluster import Target, a_cluster

MOST_GROWTH_MB = 20.0
ORDINARY_REQUESTS = 100
SETTLE_S = 10.0
"""Seconds between the last client's end and the reading of memory."""
MANY = {"never_read": 64, "never_read_grpc": 16, "slow_head": 50, "slow_body": 50}
"""Number of concurrent clients by kind; of other kinds there are 2, as fast as possible."""


def main(
    seconds: Annotated[float, typer.Option(help="How long the clients keep coming.")] = 60.0,
    hold_s: Annotated[float, typer.Option(help="How long a patient one holds on.")] = 20.0,
    look_every_s: Annotated[float, typer.Option(help="Between two looks at memory.")] = 10.0,
    only: Annotated[str, typer.Option(help="Kinds of clients, with commas.")] = "",
) -> None:
    kinds = [each for each in ATTACKS if not only or each.__name__ in only.split(",")]
    with a_cluster(step_s=0.02, num_routers=1, most_streams=1000) as target:
        before = asyncio.run(_ordinary(target))
        print(f"before: {before:.1f} MB")
        rounds = asyncio.run(_attacked(target, kinds, seconds, hold_s, look_every_s))
        time.sleep(SETTLE_S)
        after = asyncio.run(_ordinary(target))
    for name, count in sorted(rounds.items()):
        print(f"{name:>26}: {count} rounds")
    print(f"after: {after:.1f} MB, {after - before:+.1f} MB")
    if after - before > MOST_GROWTH_MB:
        raise typer.Exit(1)


async def _ordinary(target: Target) -> float:
    """The router's memory after ordinary requests, all of which must succeed."""
    async with httpx2.AsyncClient(base_url=f"http://{target.http}", timeout=60) as http:
        for _ in range(ORDINARY_REQUESTS):
            body = {"prompt": "def add(a, b):", "max_tokens": 4, "ignore_eos": True}
            (await http.post("/v1/completions", json=body)).raise_for_status()
    return _resident_mb(target)


async def _attacked(
    target: Target, kinds: list[Attack], seconds: float, hold_s: float, look_every_s: float
) -> Counter[str]:
    assert target.grpc is not None
    aim, rounds = Aim(target.http, target.grpc, hold_s), Counter[str]()

    async def again_and_again(attack: Attack) -> None:
        while True:
            await attack(aim)
            rounds[attack.__name__] += 1

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(again_and_again(attack))
            for attack in kinds
            for _ in range(MANY.get(attack.__name__, 2))
        ]
        while (elapsed_s := time.monotonic() - began) < seconds:
            await asyncio.sleep(min(look_every_s, seconds - elapsed_s))
            print(f"{time.monotonic() - began:6.0f} s: {_resident_mb(target):.1f} MB", flush=True)
        for task in tasks:
            task.cancel()
    return rounds


def _resident_mb(target: Target) -> float:
    (pid,) = target.pids
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"router {pid} has gone")


if __name__ == "__main__":
    typer.run(main)
