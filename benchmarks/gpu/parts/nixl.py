"""NIXL between two processes on one device, from its memory to its memory.

Every byte is looked at afterwards, and the rate is compared with a copy within the device, which
reads and writes the same memory. The last lines of UCX's protocol report are shown, since
"cuda_ipc" there makes all the difference.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from benchmarks.gpu.finding import Finding, bar, check, figure, note, skipped
from benchmarks.gpu.needs import why_no_nixl
from benchmarks.gpu.pool_peer import NAME, PoolPeer, checksum, digests, region_of
from benchmarks.gpu.rates import copy_rate
from kv_transfer.transports.transport import Transport

KIB, MIB = 1 << 10, 1 << 20
LEAST_OF_COPY = 0.6
WRITE_S = 30.0
ROUNDS = 5
NUM_PROTOCOLS = 8


@dataclass(frozen=True, slots=True)
class Size:
    block_bytes: int
    """2 MiB are 16 tokens of an 8B-shaped model in bfloat16."""
    num_blocks: int


GPU, CPU = Size(2 * MIB, 512), Size(64 * KIB, 64)


def run(context: Context) -> Iterator[Finding]:
    if (reason := why_no_nixl()) is not None:
        yield skipped("NIXL", reason)
        return
    size = GPU if context.on_gpu else CPU
    with tempfile.TemporaryDirectory(prefix="nixl-") as folder:
        settings = {"UCX_PROTO_INFO": "y", "UCX_LOG_FILE": f"{folder}/%p.log"}
        if not context.on_gpu:
            settings["UCX_NET_DEVICES"] = "lo"
        yield from _measure(context, size, settings)
        for line in _protocols(Path(folder)):
            yield note("UCX", line)


def _measure(context: Context, size: Size, settings: dict[str, str]) -> Iterator[Finding]:
    from kv_transfer.transports.nixl.nixl_transport import NixlTransport

    num_bytes = size.block_bytes * size.num_blocks
    pool = _random(context, num_bytes)
    expected = digests(pool, size.num_blocks, range(size.num_blocks))
    copied = copy_rate(context.torch_device, num_bytes)
    yield figure("copy within the device", f"{copied / 1e9:.1f} GB/s", gb_s=copied / 1e9)
    with (
        closing(PoolPeer(context.device, num_bytes, size.num_blocks, settings)) as peer,
        closing(NixlTransport("writer", settings, device=context.device)) as transport,
    ):
        transport.register(region_of(pool), size.num_blocks)
        transport.connect(NAME, peer.admission)
        for name, blocks, targets in _cases(size.num_blocks):
            best_s = min(_write_s(transport, blocks, targets) for _ in range(ROUNDS))
            found, told = peer.digests(targets)
            right = sum(got == expected[block] for got, block in zip(found, blocks, strict=True))
            rate = len(blocks) * size.block_bytes / best_s
            text = f"{right} of {len(blocks)} blocks arrived as they were sent"
            yield check(name, right == len(blocks), text)
            own = checksum(pool, size.num_blocks, blocks)
            yield check(f"{name}, checksum", told == own, "as both ends compute it")
            share = f"{rate / copied:.2f} of a copy"
            yield figure(
                name, f"{rate / 1e9:.2f} GB/s, {best_s * 1e6:.0f} us, {share}", gb_s=rate / 1e9
            )
        if context.on_gpu:
            yield bar("VRAM to VRAM, of a copy", rate / copied, LEAST_OF_COPY)


def _cases(num_blocks: int) -> Iterator[tuple[str, Sequence[int], Sequence[int]]]:
    """Name, our blocks, and the peer's; each case fills other blocks than the one before had."""
    order = list(range(num_blocks))
    yield "one block", order[:1], order[-1:]
    draw = random.Random(0)
    yield "scattered", draw.sample(order, num_blocks), draw.sample(order, num_blocks)
    yield "in order", order, order


def _write_s(transport: Transport, blocks: Sequence[int], targets: Sequence[int]) -> float:
    started = time.perf_counter()
    transfer = transport.write(NAME, blocks, targets)
    while not transfer.done():
        if time.perf_counter() - started > WRITE_S:
            raise TimeoutError(f"a write is not over after {WRITE_S:.0f} s")
    return time.perf_counter() - started


def _random(context: Context, num_bytes: int) -> Tensor:
    torch.manual_seed(1)
    words = torch.randint(-(2**62), 2**62, (num_bytes // 8,), device=context.device)
    context.synchronize()
    return words.view(torch.uint8)


def _protocols(folder: Path) -> list[str]:
    """The lines of UCX's tables that say by what large writes go, from the logs of both."""
    logs = "".join(log.read_text(errors="replace") for log in sorted(folder.glob("*.log")))
    lines = [line.partition("|")[2].strip(" |") for line in logs.splitlines()]
    told = [line for line in lines if "cuda" in line or "inf" in line]
    return list(dict.fromkeys(told))[-NUM_PROTOCOLS:]
