"""How much of a handoff a request feels: exposed transfer time as a share of TTFT.

    python -m benchmarks.overlap [--model DIR]

The same prompts twice: prefilled in chunks whose blocks leave while the next chunk is computed, and
in one piece, where everything travels after the last token. Medians over fresh prompts.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.pool import LOOPBACK
from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

LENGTHS = (512, 1024, 2048, 4096, 8192)
REPEATS = 5
CHUNK_TOKENS = 256
TIMEOUT_S = 300


def main(
    model: Annotated[str, typer.Option(help="Model directory.")] = str(BUNDLED_MODEL),
) -> None:
    shared = {"model": model, "worker.ucx_env": LOOPBACK, "worker.threads": 1}
    overlapped = measure({**shared, "worker.chunk_tokens": CHUNK_TOKENS})
    at_once = measure({**shared, "worker.chunk_tokens": max(LENGTHS)})
    table = Table("prompt", "TTFT", "MB", "transfer", "exposed", "of TTFT", "without overlap")
    for length, (with_overlap, without) in zip(
        LENGTHS, zip(overlapped, at_once, strict=True), strict=True
    ):
        table.add_row(str(length), *_row(with_overlap), _share(without))
    Console().print(table)


def measure(settings: dict[str, Any]) -> list[pb.Timing]:
    """One timing for each length, all of the same run."""
    with running(load_config(None, settings), ProcessLauncher(), lambda line: None) as cluster:
        return asyncio.run(_ask_all(cluster.addresses.grpc))


async def _ask_all(address: str) -> list[pb.Timing]:
    draw = random.Random(1)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        await _ask(stub, draw, 64)  # opens the link
        return [
            _median([await _ask(stub, draw, length) for _ in range(REPEATS)]) for length in LENGTHS
        ]


async def _ask(stub: rpc.InferenceStub, draw: random.Random, length: int) -> pb.Timing:
    prompt = pb.TokenIds(ids=[draw.randrange(5, 2000) for _ in range(length)])
    request = pb.GenerateRequest(token_ids=prompt, max_tokens=4, ignore_eos=True)
    responses = [response async for response in stub.Generate(request, timeout=TIMEOUT_S)]
    return responses[-1].timing


def _median(timings: list[pb.Timing]) -> pb.Timing:
    """The one whose exposed share is the median: its parts belong together."""
    shares = [timing.transfer.exposed_s / timing.ttft_s for timing in timings]
    return timings[shares.index(statistics.median_low(shares))]


def _row(timing: pb.Timing) -> tuple[str, ...]:
    moved = timing.transfer
    return (
        f"{timing.ttft_s * 1e3:.0f} ms",
        f"{moved.num_bytes / 1e6:.1f}",
        f"{moved.transfer_s * 1e3:.1f} ms",
        f"{moved.exposed_s * 1e3:.1f} ms",
        _share(timing),
    )


def _share(timing: pb.Timing) -> str:
    return f"{100 * timing.transfer.exposed_s / timing.ttft_s:.1f} %"


if __name__ == "__main__":
    typer.run(main)
