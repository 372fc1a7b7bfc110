"""The latency that a handoff adds to a request: exposed transfer time as a fraction of TTFT.

    python -m benchmarks.overlap [--model 125m [--cache DIR]] [--quick]

The same prompts run in three ways: in chunks, whose blocks are transferred while the next chunk is
computed; in one chunk, transferred layer by layer; and in one chunk, transferred at its end.
Results are medians over new prompts, fewer of them for long lengths, so that 125 million parameters
on one thread take some five minutes. Workers compute on one thread each, in their default dtype.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import SHAPES, directory_of
from benchmarks.pool import LOOPBACK
from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

LENGTHS = (512, 1024, 2048, 4096, 8192)
CHUNK_TOKENS = 256
CACHE_BYTES = 1 << 30
TIMEOUT_S = 600
SETTINGS = {
    "worker.ucx_env": LOOPBACK,
    "worker.threads": 1,
    "worker.cache_bytes": CACHE_BYTES,
}
SLOWDOWN_LENGTH = 1024
SLOWDOWN_ROUNDS = 3
MAX_SHARE = 0.05
"""Maximum exposed part of an overlapping transfer, as a fraction of TTFT."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Number of prompts of each length: up to `most`, about `tokens` tokens in total, and at least
    one."""

    most: int
    tokens: int

    def repeats(self, length: int) -> int:
        return min(self.most, max(1, self.tokens // length))


SMALL = Plan(most=5, tokens=5 * max(LENGTHS))
LARGE = Plan(most=5, tokens=8192)
QUICK = Plan(most=1, tokens=0)


def main(
    model: Annotated[
        str, typer.Option(help=f"Model directory, or {' or '.join(SHAPES)} with random weights.")
    ] = str(BUNDLED_MODEL),
    cache: Annotated[
        Path | None, typer.Option(help="Where to keep random checkpoints; nowhere by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One prompt of each length.")] = False,
) -> None:
    plan = QUICK if quick else LARGE if model in SHAPES else SMALL
    with directory_of(model, cache) as directory:
        report({**SETTINGS, "model": str(directory)}, plan)


def report(settings: dict[str, Any], plan: Plan) -> None:
    overlapped = measure({**settings, "worker.chunk_tokens": CHUNK_TOKENS}, plan)
    whole = {**settings, "worker.chunk_tokens": max(LENGTHS)}
    by_layers = measure(whole, plan)
    afterwards = measure({**whole, "worker.overlap": False}, plan)
    console = Console()
    console.print(_table(overlapped, by_layers, afterwards))
    worst = max(map(_share, [*overlapped, *by_layers]))
    verdict = "met" if worst <= MAX_SHARE else "missed"
    console.print(f"at most {worst:.1%} of TTFT exposed; the bar of {MAX_SHARE:.0%} is {verdict}")
    slower = prefill_slowdown({**settings, "worker.chunk_tokens": CHUNK_TOKENS}, plan)
    console.print(f"prefill of {SLOWDOWN_LENGTH} tokens takes {slower:+.1%} when its blocks leave")


def measure(settings: dict[str, Any], plan: Plan) -> list[pb.Timing]:
    """Measure one timing for each length, all in the same run."""
    lengths = [length for length in LENGTHS for _ in range(plan.repeats(length))]
    timings = iter(ask(settings, lengths))
    return [_median([next(timings) for _ in range(plan.repeats(length))]) for length in LENGTHS]


def ask(settings: dict[str, Any], lengths: Sequence[int]) -> list[pb.Timing]:
    """Timings of prompts of these lengths, one after the other, in a new cluster."""
    with running(load_config(None, settings), ProcessLauncher(), lambda line: None) as cluster:
        return asyncio.run(_ask_all(cluster.addresses.grpc, lengths))


def prefill_slowdown(settings: dict[str, Any], plan: Plan) -> float:
    """Median slowdown of prefill by concurrent transfers, as a fraction.

    Clusters with and without a decode worker alternate; in the latter nothing is transferred.
    """
    took: dict[int, list[float]] = {0: [], 1: []}
    lengths = [SLOWDOWN_LENGTH] * plan.most
    for _ in range(SLOWDOWN_ROUNDS):
        for replicas, seconds in took.items():
            timings = ask({**settings, "decode.replicas": replicas}, lengths)
            seconds += [timing.prefill_s for timing in timings]
    return statistics.median(took[1]) / statistics.median(took[0]) - 1


async def _ask_all(address: str, lengths: Sequence[int]) -> list[pb.Timing]:
    """Send one prompt after the other, with these lengths."""
    draw = random.Random(1)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        await _ask(stub, draw, 64)  # opens the link
        return [await _ask(stub, draw, length) for length in lengths]


async def _ask(stub: rpc.InferenceStub, draw: random.Random, length: int) -> pb.Timing:
    prompt = pb.TokenIds(ids=[draw.randrange(5, 2000) for _ in range(length)])
    request = pb.GenerateRequest(token_ids=prompt, max_tokens=4, ignore_eos=True)
    responses = [response async for response in stub.Generate(request, timeout=TIMEOUT_S)]
    timing: pb.Timing = responses[-1].timing
    return timing


def _median(timings: list[pb.Timing]) -> pb.Timing:
    """The timing with the median exposed fraction."""
    shares = [_share(timing) for timing in timings]
    return timings[shares.index(statistics.median_low(shares))]


def _table(
    overlapped: list[pb.Timing], by_layers: list[pb.Timing], afterwards: list[pb.Timing]
) -> Table:
    """Exposed time with chunks, with one chunk, and without overlap, also as a fraction of TTFT."""
    table = Table("prompt", "TTFT", "MB", "transfer", title="exposed: ms, and of TTFT")
    for way in ("chunks", "one chunk", "no overlap"):
        table.add_column(way, justify="right")
    for i, length in enumerate(LENGTHS):
        moved = overlapped[i].transfer
        table.add_row(
            str(length),
            f"{overlapped[i].ttft_s * 1e3:.0f}",
            f"{moved.num_bytes / 1e6:.1f}",
            f"{moved.transfer_s * 1e3:.1f}",
            *(_exposed(way[i]) for way in (overlapped, by_layers, afterwards)),
        )
    return table


def _exposed(timing: pb.Timing) -> str:
    return f"{timing.transfer.exposed_s * 1e3:.1f}  {_share(timing):.1%}"


def _share(timing: pb.Timing) -> float:
    return float(timing.transfer.exposed_s / timing.ttft_s)


if __name__ == "__main__":
    typer.run(main)
