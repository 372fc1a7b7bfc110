"""Both ends of a link, each with all its ranks in this process; tests turn the transfer threads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.endpoints.endpoint import PeerPool
from kv_transfer.endpoints.write_path import Written
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import wait_for
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.probe import LinkSpeed, Probe, Scratch
from kv_transfer.transports.transport import Transport
from tests.kv_transfer.in_process import HandEndpoint, joined
from tests.kv_transfer.pools import Pool, a_region
from wire.layout import KvLayout

NUM_BLOCKS = 40
STAGING_BYTES = 1 << 16


class Side:
    """One worker: pools with one block more than are in use, and an endpoint over all of them."""

    def __init__(self, name: str, layout: KvLayout, fabric: MemoryFabric) -> None:
        self.layout = layout
        layouts = [layout.of_rank(rank) for rank in range(layout.num_ranks)]
        self.pools = [Pool(each, NUM_BLOCKS + 1) for each in layouts]
        self.ranks = [
            self._rank(f"{name}/{rank}", rank, pool, fabric) for rank, pool in enumerate(self.pools)
        ]
        self.endpoint = joined(self.ranks)
        self.failed: list[tuple[str, str]] = []
        self.endpoint.start(lambda link, cause: self.failed.append((link, cause)), _raise)

    def put(self, blocks: Sequence[int], tokens: Tensor) -> None:
        """Put tokens, [tokens, layers, 2, heads, head_size], of which each rank gets its heads."""
        for pool in self.pools:
            heads = pool.layout.heads
            pool.put(blocks, tokens[:, :, :, heads.start : heads.stop])

    def get(self, blocks: Sequence[int], num_tokens: int) -> Tensor:
        """The tokens, as `put` takes them; ranks with the same heads must hold the same."""
        heads: dict[int, Tensor] = {}
        for pool in self.pools:
            strips = pool.get(blocks, num_tokens).unbind(3)
            for head, strip in zip(pool.layout.heads, strips, strict=True):
                assert torch.equal(heads.setdefault(head, strip), strip)
        return torch.stack([heads[head] for head in sorted(heads)], dim=3)

    def turn(self) -> None:
        for rank in self.ranks:
            rank.transfer_thread.turn()

    @property
    def under_way(self) -> list[int]:
        """How many parts of writes each rank has posted."""
        return [len(rank.transfer_thread._writes.in_flight) for rank in self.ranks]

    def _rank(self, name: str, rank: int, pool: Pool, fabric: MemoryFabric) -> HandEndpoint:
        link = MemoryTransport(name, fabric)
        staging = a_region(torch.zeros(STAGING_BYTES, dtype=torch.uint8))
        link.register(pool.region, pool.num_blocks, staging)
        own = self.layout, rank, NUM_BLOCKS, pool.region, staging, pool.checksum, link
        return HandEndpoint(*own, start_probe=at_once)


class Ends:
    """A link, opened and measured, from `source` to `destination`."""

    def __init__(self, source: KvLayout, destination: KvLayout) -> None:
        self.fabric = MemoryFabric()
        self.source = Side("source", source, self.fabric)
        self.destination = Side("destination", destination, self.fabric)
        self.found: list[LinkSpeed | str] = []
        self.written: list[Written] = []
        self.open(self.admissions())

    def admissions(self, link: str = "link") -> tuple[bytes, ...]:
        told: list[tuple[bytes, ...]] = []
        self.destination.endpoint.admit(link, self.source.layout, told.append)
        self.destination.turn()
        return told[0]

    def open(self, admissions: tuple[bytes, ...], link: str = "link") -> None:
        peer = PeerPool(self.destination.layout, NUM_BLOCKS, admissions)
        self.source.endpoint.connect(link, peer, self.found.append)
        while not self.found:
            self.source.turn()

    def write(self, block_write: BlockWrite) -> None:
        self.source.endpoint.write("link", block_write, self.written.append)
        self.source.turn()

    def checksum(self, remote_blocks: Sequence[int], first: int = 0) -> int:
        compute = self.destination.endpoint.checksum(self.source.layout)
        return wait_for(compute(remote_blocks, first))


def at_once(transport: Transport, link: str, scratch: Scratch) -> Probe:
    """A speed that rises with the bytes of a block."""
    yield from ()
    return LinkSpeed(1e-6, 1e6 * scratch.num_bytes)


def _raise(error: Exception) -> None:
    raise error
