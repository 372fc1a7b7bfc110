"""Blocks between pools of one process: the transport of tests and of the simulator.

It can be told to stall and to fail, which real fabrics do without being told.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

from kv_transfer.region import CacheRegion
from kv_transfer.transport import BadPeer, LinkFailed


class MemoryFabric:
    """The "network" that connects `MemoryLink`s; tests hold one, and inject faults through it."""

    def __init__(self) -> None:
        self.pools: dict[str, tuple[CacheRegion, int]] = {}
        """Region and bytes of a block; the regions stay alive here as long as writes may come."""
        self.dead: set[str] = set()
        self.flip_bits = 0
        """How many of the next writes arrive with one bit wrong."""
        self._flowing = threading.Event()
        self._flowing.set()

    @property
    def stalled(self) -> bool:
        return not self._flowing.is_set()

    def stall(self) -> None:
        """From now on no write completes."""
        self._flowing.clear()

    def resume(self) -> None:
        """All stalled writes complete when they are next looked at."""
        self._flowing.set()

    def kill(self, name: str) -> None:
        """All writes to that pool fail from now on."""
        self.dead.add(name)


class MemoryTransfer:
    """A write that happens when it is first polled while the fabric flows."""

    def __init__(self, fabric: MemoryFabric, peer: str, copies: list[tuple[int, int, int]]) -> None:
        self._fabric = fabric
        self._peer = peer
        self._copies = copies

    def done(self) -> bool:
        if self._peer in self._fabric.dead:
            raise LinkFailed(f"{self._peer} is dead")
        if self._fabric.stalled:
            return False
        for target, source, num_bytes in self._copies:
            ctypes.memmove(target, source, num_bytes)
        if self._copies and self._fabric.flip_bits:
            self._fabric.flip_bits -= 1
            _flip_a_bit(self._copies[-1][0])
        self._copies = []
        return True


def _flip_a_bit(address: int) -> None:
    byte = ctypes.c_uint8.from_address(address)
    byte.value ^= 1


class MemoryLink:
    """Implements `kv_transfer.transport.Transport` over one `MemoryFabric`."""

    name = "memory"

    def __init__(self, own_name: str, fabric: MemoryFabric) -> None:
        self._own_name = own_name
        self._fabric = fabric
        self._peers: dict[str, tuple[CacheRegion, int]] = {}

    def register(self, region: CacheRegion, num_blocks: int) -> None:
        self._region = region
        self._block_bytes = region.num_bytes // num_blocks
        self._fabric.pools[self._own_name] = (region, self._block_bytes)

    def metadata(self) -> bytes:
        return self._own_name.encode()

    def connect(self, peer: str, metadata: bytes) -> None:
        pool = self._fabric.pools.get(metadata.decode())
        if pool is None:
            raise BadPeer(f"{peer} is not on this fabric")
        if pool[1] != self._block_bytes:
            raise BadPeer(f"{peer} has blocks of {pool[1]} bytes, ours have {self._block_bytes}")
        self._peers[peer] = pool

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> MemoryTransfer:
        if peer not in self._peers:
            raise LinkFailed(f"{peer} is not connected")
        base = self._peers[peer][0].address
        size = self._block_bytes
        copies = [
            (base + page * size, self._region.address + block * size, size)
            for block, page in zip(blocks, pages, strict=True)
        ]
        return MemoryTransfer(self._fabric, peer, copies)

    def disconnect(self, peer: str) -> None:
        self._peers.pop(peer, None)

    def close(self) -> None:
        self._fabric.pools.pop(self._own_name, None)
