"""What a handoff costs: its messages, and its bytes beside a plain memory copy.

    python -m benchmarks.handoff

Times are medians; the copy is measured between the writes, in the same run.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.pool import LOOPBACK, PeerPool, a_pool
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from kv_transfer.nixl_link import NixlLink
from runtime.session import Session, open_session
from wire.identity import Leg
from wire.messages import Destination, Handed, Hello, Prefilled, Released, Submit
from wire.sampling import SamplingParams

MIB = 1024 * 1024
NUM_BYTES = 128 * MIB
REPEATS = 9
NUM_HANDOFFS = 300


def main() -> None:
    console = Console()
    table = Table("write", "GB/s", "of memcpy")
    for kib in (16, 64, 256):
        rate, copy_rate = write_rates(kib * 1024)
        table.add_row(f"128 MiB in {kib} KiB blocks", f"{rate:.1f}", f"{rate / copy_rate:.2f}")
    console.print(table)
    console.print(f"fixed cost of a prepared write of 4 KiB: {fixed_cost_us():.1f} us")
    config = load_config(None, {"worker.runner": "arithmetic", "worker.ucx_env": LOOPBACK})
    with running(config, ProcessLauncher(), lambda line: None) as cluster:
        to_commit_ms, whole_ms = asyncio.run(handoff_ms(cluster))
    console.print(
        f"handoff between two processes, one block: prefill's end to commit {to_commit_ms:.2f} ms, "
        f"submit to release, prefill of one step included, {whole_ms:.2f} ms"
    )


def write_rates(block_bytes: int) -> tuple[float, float]:
    """Scattered blocks over NIXL, and a copy of as many bytes: GB/s each."""
    num_blocks = NUM_BYTES // block_bytes
    pool, region = a_pool(NUM_BYTES)
    copy = np.empty_like(pool)
    peer = PeerPool(NUM_BYTES, num_blocks)
    link = a_link(region, num_blocks, peer)
    order = np.random.default_rng(0).permutation(num_blocks).tolist()

    def write() -> None:
        transfer = link.write("peer", order, order)
        while not transfer.done():
            pass

    seconds = alternate(write, lambda: np.copyto(copy, pool))
    link.close()
    peer.close()
    return NUM_BYTES / seconds[0] / 1e9, NUM_BYTES / seconds[1] / 1e9


def fixed_cost_us() -> float:
    _, region = a_pool(MIB)
    peer = PeerPool(MIB, 256)
    link = a_link(region, 256, peer)

    def write() -> None:
        transfer = link.write("peer", [7], [9])
        while not transfer.done():
            pass

    write()
    seconds = [timed(write) for _ in range(2000)]
    link.close()
    peer.close()
    return statistics.median(seconds) * 1e6


def a_link(region: object, num_blocks: int, peer: PeerPool) -> NixlLink:
    link = NixlLink(f"bench-{os.getpid()}-{num_blocks}", LOOPBACK)
    link.register(region, num_blocks)  # type: ignore[arg-type]
    link.connect("peer", peer.admission)
    return link


def alternate(*actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action, in turns so that all meet the same noise."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(REPEATS):
        for action, spent in zip(actions, seconds, strict=True):
            spent.append(timed(action))
    return [statistics.median(spent[1:]) for spent in seconds]


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


async def handoff_ms(cluster: RunningCluster) -> tuple[float, float]:
    """Medians over fresh one-block prompts, driven without a router."""
    prefill, decode = [
        await open_session(address, Hello(caller_id="bench"), timeout_s=10)
        for address in cluster.worker_addresses
    ]
    destination = Destination(decode.card.ref, decode.card.address)
    to_commit, whole = [], []
    for number in range(NUM_HANDOFFS):
        started = time.perf_counter()
        prefill.session.send(a_submit(number, destination))
        await next_of(prefill.session, Released)
        whole.append(time.perf_counter() - started)
        handed = await next_of(decode.session, Handed)
        assert isinstance(handed, Handed)
        to_commit.append(handed.moved.exposed_s)
    prefill.session.close()
    decode.session.close()
    return statistics.median(to_commit) * 1e3, statistics.median(whole) * 1e3


def a_submit(number: int, destination: Destination) -> Submit:
    tokens = tuple((number * 16 + i) % 2048 for i in range(16))
    return Submit(
        leg=Leg(f"bench-{number}"),
        tokens=tokens,
        num_prompt=len(tokens),
        sampling=SamplingParams(max_tokens=2),
        destination=destination,
    )


async def next_of(session: Session, kind: type[Released | Handed | Prefilled]) -> object:
    while not isinstance(message := await session.receive(), kind):
        pass
    return message


if __name__ == "__main__":
    main()
