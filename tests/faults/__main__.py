"""`python -m tests.faults [OPTIONS]`, see `--help`; exits with 1 if anything is wrong."""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

import worker.rank.transport
from tests.faults import flips
from tests.faults.moments import Findings, Moments
from tests.faults.scene import Scene
from wire.identity import Role


def main(
    tcp: Annotated[bool, typer.Option(help="TCP alone, instead of UCX's choice.")] = False,
    ranks: Annotated[
        str | None,
        typer.Option(help="Of the prefill and the decode worker, as 2:1, of which any is struck."),
    ] = None,
    moments: Annotated[int, typer.Option(help="Faults, half of them to either side.")] = 200,
    num_flips: Annotated[int, typer.Option("--flips", help="Flipped bits.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 1,
) -> None:
    logging.disable(logging.CRITICAL)
    ucx_tls = "tcp" if tcp else None
    with TemporaryDirectory() as directory:
        scene = Scene(ucx_tls) if ranks is None else rank_scene(ucx_tls, ranks, Path(directory))
        failed = False
        for role in (Role.PREFILL, Role.DECODE):
            findings = asyncio.run(Moments(role, scene, seed).run(moments // 2))
            tell(findings)
            failed |= bool(findings.problems)
    num_caught = count_caught(num_flips, ucx_tls)
    print(f"flipped bits: {num_caught} of {num_flips} caught", flush=True)
    sys.exit(1 if failed or num_caught < num_flips else 0)


def rank_scene(ucx_tls: str | None, ranks: str, directory: Path) -> Scene:
    from tests.faults.ranks import RankScene  # loads torch

    prefill, decode = map(int, ranks.split(":"))
    return RankScene(ucx_tls, {Role.PREFILL: prefill, Role.DECODE: decode}, directory)


def count_caught(num_flips: int, ucx_tls: str | None) -> int:
    original = worker.rank.transport.make_transport
    with_flips = flips.FlippingLink
    try:
        worker.rank.transport.make_transport = lambda config, name, device: with_flips(  # type: ignore[attr-defined]
            name, worker.rank.transport._ucx_env(config)
        )
        return asyncio.run(flips.run(num_flips, ucx_tls))
    finally:
        worker.rank.transport.make_transport = original  # type: ignore[attr-defined]


def tell(findings: Findings) -> None:
    seen = ", ".join(f"{what}: {count}" for what, count in sorted(findings.seen.items()))
    whole = sorted(findings.whole_s)
    print(seen)
    if whole:
        print(
            f"the survivor's pool was whole after {statistics.median(whole):.2f} s (median), "
            f"{whole[-1]:.2f} s (longest)"
        )
    for problem in findings.problems:
        print(f"PROBLEM {problem}")
    print(f"{len(findings.problems)} problems", flush=True)


if __name__ == "__main__":
    typer.run(main)
