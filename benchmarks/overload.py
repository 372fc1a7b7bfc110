"""A real cluster under three times its capacity, with a light tenant beside a heavy one.

    python -m benchmarks.overload [--seconds 120]

Router and workers are processes of their own; this one is the client. Workers compute the
arithmetic model in steps of a fixed duration, so that their capacity is known: one chunk of prompt
tokens per step. Their caches hold 64 prompts each, and are filled before the measurement, as is the
router's prefix index. The light tenant first runs alone, for a quarter of the time, then beside the
heavy one. A request is good if it completes, and its first token and the mean of the others meet
their targets. The router's memory is its resident set.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import grpc
import numpy as np
import typer
import uvloop
import yaml
from rich.console import Console

from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running
from router.access.keys import generate_key
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

STEP_S = 0.04
CHUNK_TOKENS, PROMPT_TOKENS, ANSWER_TOKENS = 512, 4096, 16
POOL = 2
FULL_PER_S = 2 * POOL * CHUNK_TOKENS / STEP_S / PROMPT_TOKENS
LIGHT_PER_S = 1.0
TTFT_TARGET_S, TPOT_TARGET_S = 2.0, 0.1
TIMES = 3.0
WARM_S = 24.0
KEPT, LIGHT_KEPT, REFUSED_WITHIN_S, GROWTH = 0.95, 0.9, 0.05, 1.1


@dataclass(slots=True)
class Seen:
    """Results of one tenant in one phase, measured at its client; in seconds."""

    num_asked: int = 0
    num_good: int = 0
    num_admitted: int = 0
    refused_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return self.num_good / max(1, self.num_asked)


@dataclass(frozen=True, slots=True)
class Target:
    address: str
    keys: dict[str, str]
    router_pid: int


def main(
    seconds: Annotated[float, typer.Option(help="Of overload.")] = 120.0,
) -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as folder, _cluster(Path(folder)) as target:
        alone, beside, heavy, memory = uvloop.run(_measure(target, seconds))
    for seen in (alone, beside, heavy):
        if seen.errors:
            console.print(f"{len(seen.errors)} errors, the first: {seen.errors[0]}")
    console.print(f"{FULL_PER_S:g} requests/s can be served, {TIMES * FULL_PER_S:g}/s came")
    admitted = beside.num_admitted + heavy.num_admitted
    kept = (beside.num_good + heavy.num_good) / max(1, admitted)
    console.print(
        f"{_met(kept >= KEPT)}  of {beside.num_asked + heavy.num_asked} requests {admitted} were "
        f"admitted, {kept:.1%} of them within their targets"
    )
    refused_s = np.array(heavy.refused_s + beside.refused_s or [0.0])
    p50, p99 = (float(np.percentile(refused_s, at)) for at in (50, 99))
    console.print(
        f"{_met(p99 <= REFUSED_WITHIN_S)}  {len(refused_s)} refusals: p50 {p50 * 1e3:.0f} ms, "
        f"p99 {p99 * 1e3:.0f} ms, of all: {float((refused_s <= REFUSED_WITHIN_S).mean()):.1%} "
        f"within {REFUSED_WITHIN_S * 1e3:.0f} ms"
    )
    console.print(
        f"{_met(memory[-1] <= GROWTH * memory[0])}  the router's memory, MiB, at the quarters of "
        f"the time: {', '.join(f'{each / 2**20:.1f}' for each in memory)}"
    )
    console.print(
        f"{_met(beside.goodput >= LIGHT_KEPT * alone.goodput)}  the light tenant: "
        f"{beside.goodput:.1%} of {beside.num_asked} good beside the heavy one, alone "
        f"{alone.goodput:.1%} of {alone.num_asked}; the heavy one {heavy.goodput:.1%}"
    )


async def _measure(target: Target, seconds: float) -> tuple[Seen, Seen, Seen, list[int]]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        warm, alone, beside, heavy = Seen(), Seen(), Seen(), Seen()
        await _load(stub, target.keys["heavy"], FULL_PER_S, WARM_S, warm)
        await _load(stub, target.keys["light"], LIGHT_PER_S, seconds / 4, alone)
        async with asyncio.TaskGroup() as tasks:
            rate = TIMES * FULL_PER_S
            tasks.create_task(_load(stub, target.keys["heavy"], rate, seconds, heavy))
            tasks.create_task(_load(stub, target.keys["light"], LIGHT_PER_S, seconds, beside))
            memory = await _watch(target.router_pid, seconds)
        return alone, beside, heavy, memory


async def _load(
    stub: rpc.InferenceStub, key: str, per_s: float, seconds: float, seen: Seen
) -> None:
    """Send requests at random times, whether earlier ones are answered or not."""
    draw = random.Random(int(per_s * 1000))
    at_s, until_s = time.monotonic(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        while (at_s := at_s + draw.expovariate(per_s)) < until_s:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            tokens = list(draw.randbytes(PROMPT_TOKENS))
            tasks.create_task(_ask(stub, key, tokens, seen))


async def _ask(stub: rpc.InferenceStub, key: str, tokens: list[int], seen: Seen) -> None:
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=tokens), max_tokens=ANSWER_TOKENS, ignore_eos=True
    )
    begun, first, seen.num_asked = time.monotonic(), None, seen.num_asked + 1
    try:
        async for _ in stub.Generate(request, metadata=(("authorization", f"Bearer {key}"),)):
            first = first or time.monotonic()
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and first is None:
            seen.refused_s.append(time.monotonic() - begun)
        else:
            seen.num_admitted += 1
            seen.errors.append(f"{error.code()}: {error.details()}")
        return
    seen.num_admitted += 1
    if first is not None:
        tpot_s = (time.monotonic() - first) / (ANSWER_TOKENS - 1)
        seen.num_good += first - begun <= TTFT_TARGET_S and tpot_s <= TPOT_TARGET_S


async def _watch(pid: int, seconds: float) -> list[int]:
    """Resident bytes at each quarter of the time; the first reading is shortly after the
    beginning."""
    found = []
    for wait_s in (seconds / 20, seconds / 5, seconds / 4, seconds / 4, seconds / 4):
        await asyncio.sleep(wait_s)
        found.append(_resident_bytes(pid))
    return found


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@contextmanager
def _cluster(folder: Path) -> Iterator[Target]:
    drawn = {name: generate_key() for name in ("heavy", "light")}
    keys_file = folder / "keys.yaml"
    keys_file.write_text(yaml.safe_dump({name: text for name, (_, text) in drawn.items()}))
    settings = {
        "prefill.replicas": POOL,
        "decode.replicas": POOL,
        "worker.runner": "arithmetic",
        "worker.step_s": STEP_S,
        "worker.chunk_tokens": CHUNK_TOKENS,
        "worker.tpot_target_s": TPOT_TARGET_S,
        "worker.cache_bytes": 4 << 20,
        "worker.ucx_env": {"UCX_NET_DEVICES": "lo"},
        "router.keys_file": str(keys_file),
        "router.ttft_target_s": TTFT_TARGET_S,
        "router.tpot_target_s": TPOT_TARGET_S,
    }
    launcher = ProcessLauncher()
    with running(load_config(None, settings), launcher, lambda line: None) as cluster:
        (router_pid,) = launcher.pids("router")
        address = cluster.addresses.grpc
        yield Target(address, {name: key for name, (key, _) in drawn.items()}, router_pid)


def _met(bar: bool) -> str:
    return "met   " if bar else "missed"


if __name__ == "__main__":
    typer.run(main)
