"""Requests that keep two targets, served by one worker, and by two that share its device.

The targets follow from the idle worker: what a user would call slow is a multiple of that. Both get
the same requests at the same times, at a rate that the one worker can serve. Two processes on one
GPU take turns, unless NVIDIA's MPS runs; so this says what splitting costs there, and the least
that it can gain elsewhere.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.checkpoint import write_checkpoint
from benchmarks.gpu.context import Context
from benchmarks.gpu.finding import Finding, figure, note, skipped
from benchmarks.gpu.load import (
    Served,
    Shape,
    Targets,
    at_a_time,
    at_rate,
    median,
    throughput,
    worst,
)
from benchmarks.gpu.models import SHAPES, TINY
from benchmarks.gpu.needs import why_no_nixl
from benchmarks.gpu.workers import GIB, worker_settings
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running

TTFT_FACTOR, TPOT_FACTOR = 10, 3
"""Of the idle worker's times."""
LOAD = 0.7
"""Of the one worker's throughput."""


@dataclass(frozen=True, slots=True)
class Size:
    model: str
    shape: Shape
    num_idle: int
    num_busy: int
    at_a_time: int


GPU = Size("1b", Shape(1024, 64, 128256), 4, 64, 16)
CPU = Size("tiny", Shape(24, 4, 512), 2, 6, 2)


@dataclass(frozen=True, slots=True)
class Alone:
    """What one worker does, and the load that follows from it."""

    targets: Targets
    per_s: float
    served: list[Served]


def run(context: Context) -> Iterator[Finding]:
    if (reason := why_no_nixl()) is not None:
        yield skipped("goodput", reason)
        return
    size = GPU if context.on_gpu else CPU
    with tempfile.TemporaryDirectory(prefix="goodput-") as folder:
        config = SHAPES.get(size.model, TINY)
        directory = write_checkpoint(config, Path(folder) / "model", context.torch_device)
        context.free_cache()
        settings = worker_settings(context, 8 * GIB, dtype="bfloat16" if context.on_gpu else "auto")
        settings |= {"model": str(directory), "router.split": "always"}
        alone = _with_cluster({**settings, "prefill.replicas": 0}, lambda at: _alone(at, size))
        targets = alone.targets
        text = f"TTFT {targets.ttft_s * 1e3:.0f} ms, TPOT {targets.tpot_s * 1e3:.1f} ms"
        yield note(
            "targets", f"{text}, at {alone.per_s:.2f} requests/s of {size.shape.prompt} tokens"
        )
        yield _told("one worker", alone.served, targets)
        pair = _with_cluster(settings, lambda at: _busy(at, size, alone.per_s))
        yield _told("prefill and decode", pair, targets)


def _with_cluster(settings: dict[str, Any], work: Any) -> Any:
    """What `work` makes of the address of a cluster with these settings."""
    with running(load_config(None, settings), ProcessLauncher(), lambda line: None) as cluster:
        return asyncio.run(work(cluster.addresses.grpc))


async def _alone(address: str, size: Size) -> Alone:
    await at_a_time(address, size.shape.requests(2, seed=1), 1)
    idle = await at_a_time(address, size.shape.requests(size.num_idle, seed=2), 1)
    targets = Targets(
        TTFT_FACTOR * median([it.ttft_s for it in idle]),
        TPOT_FACTOR * median([it.tpot_s for it in idle]),
    )
    closed = await at_a_time(address, size.shape.requests(size.num_busy, seed=3), size.at_a_time)
    per_s = LOAD * throughput(closed)
    return Alone(targets, per_s, await _busy(address, size, per_s))


async def _busy(address: str, size: Size, per_s: float) -> list[Served]:
    """The same requests at the same times for whoever serves them; a few before open links."""
    await at_a_time(address, size.shape.requests(2, seed=4), 1)
    return await at_rate(address, size.shape.requests(size.num_busy, seed=5), per_s, seed=6)


def _told(name: str, served: list[Served], targets: Targets) -> Finding:
    good, rate = throughput(served, targets), throughput(served)
    ttfts, tpots = ([getattr(it, key) for it in served] for key in ("ttft_s", "tpot_s"))
    text = (
        f"{good:.2f} of {rate:.2f} requests/s in time; p50 and p90 "
        f"TTFT {median(ttfts) * 1e3:.0f} and {worst(ttfts) * 1e3:.0f} ms, "
        f"TPOT {median(tpots) * 1e3:.1f} and {worst(tpots) * 1e3:.1f} ms"
    )
    return figure(name, text, goodput=good, rate=rate, tpot_ms=median(tpots) * 1e3)
