"""Measures several writes at a time by a transfer thread, each over a link of its own."""

from __future__ import annotations

import queue
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from benchmarks.pool import PeerPool, a_pool
from kv_transfer.endpoints.rank import MAX_PART_BYTES
from kv_transfer.endpoints.transfer_thread import TransferThread
from kv_transfer.endpoints.write_path import InPlaceWrites, RankPath, Written
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.probe import LinkSpeed, Probe
from kv_transfer.transports.transport import Transport
from wire.layout import KvLayout

NUM_FLOWS = (1, 2, 4, 8)
FLOW_BYTES = 64 << 20
LAYOUT = KvLayout(num_layers=16, num_kv_heads=4, head_size=64, block_size=16, dtype="bfloat16")
"""Blocks of 256 KiB."""


@dataclass(frozen=True, slots=True)
class Flows:
    """Medians over rounds. `spread` is the time of the slowest flow over that of the fastest."""

    num_flows: int
    gb_s: float
    spread: float


def measure(rounds: int, ucx_env: dict[str, str]) -> list[Flows]:
    most = max(NUM_FLOWS)
    links = [f"flow-{number}" for number in range(most)]
    num_blocks = FLOW_BYTES // LAYOUT.block_bytes
    taken: dict[int, list[list[float]]] = {count: [] for count in NUM_FLOWS}
    with (
        closing(PeerPool(most * FLOW_BYTES, most * num_blocks, links, ucx_env)) as peer,
        _transfer_thread(peer, num_blocks, ucx_env) as transfer_thread,
    ):
        _run(transfer_thread, links, num_blocks)  # touches every page, and opens every connection
        for _ in range(rounds):
            for count, times in taken.items():
                times.append(_run(transfer_thread, links[:count], num_blocks))
    return [_flows(count, times) for count, times in taken.items()]


def _flows(count: int, rounds: list[list[float]]) -> Flows:
    """The medians, from the seconds of every flow in every round."""
    total_s = statistics.median(max(times) for times in rounds)
    spread = statistics.median(max(times) / min(times) for times in rounds)
    return Flows(count, count * FLOW_BYTES / total_s / 1e9, spread)


@contextmanager
def _transfer_thread(
    peer: PeerPool, num_blocks: int, ucx_env: dict[str, str]
) -> Iterator[TransferThread]:
    _, region = a_pool(FLOW_BYTES)
    transport = NixlTransport("bench-flows", ucx_env)
    transport.register(region, num_blocks)
    transfer_thread = TransferThread(transport, _lost, _crashed)
    transfer_thread.start()
    opened: queue.SimpleQueue[object] = queue.SimpleQueue()
    for link, admission in peer.admissions.items():
        write_path = InPlaceWrites(LAYOUT, _no_checksum, MAX_PART_BYTES)
        transfer_thread.connect(
            link, [RankPath(link, admission, write_path, _no_probe)], opened.put
        )
    for _ in peer.admissions:
        opened.get()
    yield transfer_thread
    transfer_thread.stop()


def _run(transfer_thread: TransferThread, links: Sequence[str], num_blocks: int) -> list[float]:
    """Seconds until each flow has ended; all start together, and write to blocks of their own."""
    ended: queue.SimpleQueue[Written] = queue.SimpleQueue()
    started = time.monotonic()
    for number, link in enumerate(links):
        remote_blocks = range(number * num_blocks, (number + 1) * num_blocks)
        block_write = BlockWrite(
            tuple(reversed(range(num_blocks))),  # so that no neighbours merge
            tuple(remote_blocks),
            num_blocks * LAYOUT.block_size,
            first_remote_block=0,
        )
        transfer_thread.write(link, block_write, ended.put)
    return [ended.get().ended - started for _ in links]


def _no_checksum(blocks: Sequence[int], first: int) -> int:
    return 0


def _no_probe(transport: Transport) -> Probe:
    yield from ()
    return LinkSpeed(0.0, 0.0)


def _lost(link: str, cause: str) -> None:
    raise RuntimeError(f"{link} was lost: {cause}")


def _crashed(error: Exception) -> None:
    raise error
