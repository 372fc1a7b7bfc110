"""A pool of blocks as NIXL sees it: its description for peers, and its descriptors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from kv_transfer.errors import BadPeer
from kv_transfer.layout.region import CacheRegion

_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class RegisteredPool:
    """A pool: blocks of one size, one behind the other. `address` is that of the first."""

    mem_type: str
    address: int
    num_blocks: int
    block_bytes: int
    device_id: int

    @staticmethod
    def of(region: CacheRegion, num_blocks: int) -> RegisteredPool:
        mem_type, device_id = mem_type_of(region.device)
        block_bytes = region.num_bytes // num_blocks
        return RegisteredPool(mem_type, region.address, num_blocks, block_bytes, device_id)

    def descriptors(self) -> Any:
        """A row (address, length, device) for each block: uint64 [num_blocks, 3]."""
        numbers = np.arange(self.num_blocks, dtype=np.uint64)
        addresses = self.address + numbers * np.uint64(self.block_bytes)
        return rows(addresses, self.block_bytes, self.device_id)

    def admission(self, metadata: bytes) -> bytes:
        """The pool and its agent's metadata behind a hash: NIXL accepts many damaged metadata."""
        sizes = [self.address, self.num_blocks, self.block_bytes, self.device_id]
        body = self.mem_type.encode() + np.array(sizes, np.uint64).tobytes() + metadata
        return _hash(body) + body


def read_admission(peer: str, admission: bytes) -> tuple[RegisteredPool, bytes]:
    """The peer's pool, and its agent's metadata. Raises BadPeer."""
    found, body = admission[:_HASH_BYTES], admission[_HASH_BYTES:]
    if _hash(body) != found:
        raise BadPeer(f"admission by {peer} is damaged ({len(admission)} bytes)")
    sizes = [int(size) for size in np.frombuffer(body[4:36], np.uint64)]
    return RegisteredPool(body[:4].decode(), *sizes), body[36:]


def mem_type_of(device: str) -> tuple[str, int]:
    """NIXL's name for a device's memory, and the device's number."""
    if device == "cpu":
        return "DRAM", 0
    return "VRAM", int(device.partition(":")[2] or 0)


def rows(addresses: Any, sizes: Any, device_id: int) -> Any:
    """Descriptors, uint64 [n, 3]."""
    made = np.empty((len(addresses), 3), np.uint64)
    made[:, 0], made[:, 1], made[:, 2] = addresses, sizes, device_id
    return made


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).digest()
