"""Pools in this process, filled, read and connected without any of the code that moves blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.endpoints.staged_writes import StagedWrites, StagingSlots
from kv_transfer.endpoints.write_path import InPlaceWrites, RankPath, WritePart, WritePath
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import MASK, checksum_host_blocks, wait_for
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.staging import Staging
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.probe import LinkSpeed, Probe
from kv_transfer.transports.transport import Transport
from wire.layout import SCALED_DTYPES, KvLayout

GARBAGE = 0xFF
"""What a fresh pool is full of: as a float it is no number, and spoils whatever reads it."""


class Pool:
    """One rank's blocks, which are read and written token by token."""

    def __init__(self, layout: KvLayout, num_blocks: int, memory: Tensor | None = None) -> None:
        size = num_blocks * layout.block_bytes
        self.layout = layout
        self.num_blocks = num_blocks
        self.memory = torch.full((size,), GARBAGE, dtype=torch.uint8) if memory is None else memory
        self.region = a_region(self.memory)

    def put(self, blocks: Sequence[int], tokens: Tensor) -> None:
        """Write tokens, [tokens, layers, 2, heads, head_size], keys first."""
        places, slots = self._places(blocks, len(tokens))
        self._values()[places, :, :, :, slots] = self._ordered(tokens)

    def get(self, blocks: Sequence[int], num_tokens: int) -> Tensor:
        """The first tokens of these blocks, as `put` takes them, times their scales if any."""
        places, slots = self._places(blocks, num_tokens)
        tokens, scales = self._values()[places, :, :, :, slots], self._scales()
        if scales is not None:
            tokens = tokens.float() * scales[places][..., None]
        return self._ordered(tokens)

    def put_scales(self, block: int, scales: Tensor) -> None:
        """float32 [layers, 2, heads], keys first, behind the block's values."""
        start = block * self.layout.block_bytes + self.layout.value_bytes
        ordered = self._ordered(scales[None]).contiguous().view(torch.uint8).flatten()
        self.memory[start : start + self.layout.scale_bytes] = ordered

    def checksum(self, blocks: Sequence[int], first: int) -> int:
        return checksum_host_blocks(
            self.memory.numpy().data, self.layout.block_bytes, blocks, first
        )

    def _places(self, blocks: Sequence[int], num_tokens: int) -> tuple[Tensor, Tensor]:
        """Each token's block, and its token slot there."""
        tokens = torch.arange(num_tokens)
        places = torch.tensor(list(blocks))[tokens // self.layout.block_size]
        return places, tokens % self.layout.block_size

    def _values(self) -> Tensor:
        """[blocks, layers, 2, heads, token_slots, head_size], keys where the layout has them."""
        layout = self.layout
        blocks = self.memory.view(-1, layout.block_bytes)[:, : layout.value_bytes]
        shape = (layout.num_layers, 2, layout.num_kv_heads, layout.block_size, layout.head_size)
        return blocks.view(getattr(torch, layout.dtype)).unflatten(1, shape)

    def _scales(self) -> Tensor | None:
        layout = self.layout
        if layout.dtype not in SCALED_DTYPES:
            return None
        scales = self.memory.view(-1, layout.block_bytes)[:, layout.value_bytes :].clone()
        shape = (layout.num_layers, 2, layout.num_kv_heads)
        return scales.view(torch.float32).unflatten(1, shape)

    def _ordered(self, tokens: Tensor) -> Tensor:
        """Exchanges keys and values where the layout has values first; its own inverse."""
        return tokens if self.layout.kv_order == "kv" else tokens.flip(2)


def a_region(memory: Tensor) -> CacheRegion:
    return CacheRegion(memory.data_ptr(), memory.numel(), "cpu", memory)


def some_tokens(layout: KvLayout, num_tokens: int) -> Tensor:
    """Normal values, [tokens, layers, 2, heads, head_size]; the same each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_tokens, layout.num_layers, 2, layout.num_kv_heads, layout.head_size)
    return torch.randn(shape, generator=generator).to(getattr(torch, layout.dtype))


def a_staging(source: Pool, destination: KvLayout, num_slots: int, slot_bytes: int) -> Staged:
    return Staged(source, destination, StagingSlots(num_slots, slot_bytes), num_slots * slot_bytes)


class Staged:
    """A staged write path from a pool, with its staging memory and slots."""

    def __init__(
        self, source: Pool, destination: KvLayout, slots: StagingSlots, num_bytes: int
    ) -> None:
        self.memory = a_region(torch.full((num_bytes,), GARBAGE, dtype=torch.uint8))
        self.slots = slots
        staging = Staging(source.region, source.layout, self.memory)
        self.write_path = StagedWrites(source.layout, destination, slots, staging.stage)

    @property
    def num_free(self) -> int:
        return len(self.slots._free)


class Pair:
    """Two pools, and a rank pair over which blocks of the first are written to the second."""

    def __init__(self, ours: KvLayout, theirs: KvLayout, num_blocks: int = 40) -> None:
        self.fabric = MemoryFabric()
        self.source, self.destination = Pool(ours, num_blocks), Pool(theirs, num_blocks)
        self.link = MemoryTransport("us", self.fabric)
        self.peer = MemoryTransport("them", self.fabric)
        self.peer.register(self.destination.region, num_blocks)

    def direct(self, max_part_bytes: int = 1 << 20) -> WritePath:
        self.link.register(self.source.region, self.source.num_blocks)
        self.link.connect("them", self.peer.admit("us"))
        return InPlaceWrites(self.source.layout, self.source.checksum, max_part_bytes)

    def staged(self, num_slots: int, slot_bytes: int) -> Staged:
        staged = a_staging(self.source, self.destination.layout, num_slots, slot_bytes)
        self.link.register(self.source.region, self.source.num_blocks, staged.memory)
        self.link.connect("them", self.peer.admit("us"))
        return staged


def move(
    source: Pool,
    blocks: Sequence[int],
    destination: Pool,
    remote_blocks: Sequence[int],
    num_tokens: int,
) -> None:
    """Write tokens as a worker does, over the memory transport; verify them as its peer does."""
    fabric = MemoryFabric()
    us, them = MemoryTransport("us", fabric), MemoryTransport("them", fabric)
    them.register(destination.region, destination.num_blocks)
    slot_bytes = 256 * max(source.layout.token_bytes, destination.layout.token_bytes)
    staged = a_staging(source, destination.layout, 2, slot_bytes)
    us.register(source.region, source.num_blocks, staged.memory)
    us.connect("them", them.admit("us"))
    block_write = BlockWrite(
        tuple(blocks[: source.layout.num_blocks(num_tokens)]),
        tuple(remote_blocks[: destination.layout.num_blocks(num_tokens)]),
        num_tokens,
        first_remote_block=0,
    )
    assert carry(us, "them", staged.write_path, block_write) == destination.checksum(
        block_write.remote_blocks, 0
    )


def a_part(write_path: WritePath, block_write: BlockWrite, name: str = "them") -> WritePart:
    """A part that is posted by hand: nobody waits for its end."""
    path = RankPath(name, b"", write_path, unmeasured)
    return WritePart("link", path, block_write, lambda written: None)


def unmeasured(transport: Transport) -> Probe:
    yield from ()
    return LinkSpeed(0.0, 0.0)


def carry(transport: Transport, link: str, write_path: WritePath, block_write: BlockWrite) -> int:
    """Move a block write part by part. Returns its checksum."""
    checksum = 0
    for part in write_path.split(block_write):
        posted = a_part(write_path, part, link)
        assert write_path.try_post(transport, posted)
        assert posted.transfer is not None
        while not posted.transfer.done():
            pass
        posted.end(now=0.0)
        checksum = (checksum + wait_for(posted.checksum)) & MASK
    return checksum
