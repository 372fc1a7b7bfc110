"""Blocks between pools of one process: the transport of tests and of the simulator.

It can be told to stall, to fail, and to deliver late, which real fabrics do without being told.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.errors import BadPeer, LinkFailed
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets, block_spans


@dataclass(frozen=True, slots=True)
class AdmittedPool:
    """A pool as one peer is admitted to it. It stays alive here as long as writes may come."""

    owner: str
    pool: CacheRegion
    block_bytes: int


class MemoryFabric:
    """The "network" that connects `MemoryLink`s; tests hold one, and inject faults through it."""

    def __init__(self) -> None:
        self.doors: dict[str, AdmittedPool] = {}
        """By admission."""
        self.dead: set[str] = set()
        self.flip_bits = 0
        """How many of the next writes arrive with one bit wrong."""
        self._flowing = True
        self._late: list[tuple[str, int, bytes]] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    @property
    def stalled(self) -> bool:
        return not self._flowing

    def stall(self) -> None:
        """From now on no write completes."""
        self._flowing = False

    def resume(self) -> None:
        """Stalled writes complete when they are next looked at.

        What had left before its link was given up lands now, where it is still let in.
        """
        self._flowing = True
        late, self._late = self._late, []
        for admission, offset, content in late:
            self._land(admission, offset, content)

    def kill(self, name: str) -> None:
        """All writes to that worker's pool fail from now on."""
        self.dead.add(name)

    def admit(self, door: AdmittedPool) -> str:
        admission = f"{door.owner} {next(self._numbers)}"
        self.doors[admission] = door
        return admission

    def evict(self, admission: str) -> None:
        with self._lock:
            self.doors.pop(admission, None)

    def copy(self, admission: str, base: int, spans: Offsets) -> None:
        """Raises LinkFailed when the door has been closed."""
        for own_offset, offset, num_bytes in spans.tolist():
            if not self._land(admission, offset, ctypes.string_at(base + own_offset, num_bytes)):
                raise LinkFailed(f"{admission} is not open any more")
        if len(spans) and self.flip_bits:
            self.flip_bits -= 1
            self._flip_a_bit(admission, int(spans[-1, 1]))

    def keep(self, admission: str, base: int, spans: Offsets) -> None:
        """Remember writes that were given up, with what they would have carried."""
        for own_offset, offset, num_bytes in spans.tolist():
            self._late.append((admission, offset, ctypes.string_at(base + own_offset, num_bytes)))

    def _land(self, admission: str, offset: int, content: bytes) -> bool:
        with self._lock:
            door = self.doors.get(admission)
            if door is not None:
                ctypes.memmove(door.pool.address + offset, content, len(content))
            return door is not None

    def _flip_a_bit(self, admission: str, offset: int) -> None:
        byte = ctypes.c_uint8.from_address(self.doors[admission].pool.address + offset)
        byte.value ^= 1


class MemoryTransfer:
    """A write that happens when it is first polled while the fabric flows."""

    def __init__(self, fabric: MemoryFabric, admission: str, base: int, spans: Offsets) -> None:
        self._fabric = fabric
        self._admission = admission
        self._base = base
        self._spans = spans
        self._ended = False
        self._cause: str | None = None

    def done(self) -> bool:
        if self._cause is not None:
            raise LinkFailed(self._cause)
        if self._admission.partition(" ")[0] in self._fabric.dead and not self._ended:
            raise LinkFailed(f"{self._admission} is dead")
        if self._ended or self._fabric.stalled:
            return self._ended
        self._fabric.copy(self._admission, self._base, self._spans)
        self._ended = True
        return True

    def give_up(self, cause: str) -> None:
        if not self._ended and self._cause is None:
            self._cause = cause
            self._fabric.keep(self._admission, self._base, self._spans)


class MemoryLink:
    """Implements `kv_transfer.transports.transport.Transport` over one `MemoryFabric`."""

    name = "memory"
    direct_access = False

    def __init__(self, own_name: str, fabric: MemoryFabric) -> None:
        self._own_name = own_name
        self._fabric = fabric
        self._admitted: dict[str, str] = {}
        self._peers: dict[str, str] = {}
        self._posted: dict[str, list[MemoryTransfer]] = {}

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        self._pool = pool
        self._staging = staging
        self._block_bytes = pool.num_bytes // num_blocks

    def admit(self, peer: str) -> bytes:
        self.evict(peer)
        door = AdmittedPool(self._own_name, self._pool, self._block_bytes)
        self._admitted[peer] = self._fabric.admit(door)
        return self._admitted[peer].encode()

    def evict(self, peer: str) -> None:
        admission = self._admitted.pop(peer, None)
        if admission is not None:
            self._fabric.evict(admission)

    def connect(self, peer: str, admission: bytes) -> None:
        if admission.decode(errors="replace") not in self._fabric.doors:
            raise BadPeer(f"{peer} has not admitted {self._own_name} on this fabric")
        self._peers[peer] = admission.decode()

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> MemoryTransfer:
        size, theirs = self._block_bytes, self._door(peer).block_bytes
        if size != theirs:
            raise BadPeer(f"{peer} has blocks of {theirs} bytes, ours have {size}")
        return self.write_spans(peer, block_spans(blocks, pages, size), staged=False)

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> MemoryTransfer:
        self._door(peer)
        memory = self._staging if staged else self._pool
        assert memory is not None, "nothing was registered to stage in"
        transfer = MemoryTransfer(self._fabric, self._peers[peer], memory.address, spans)
        posted = self._posted.setdefault(peer, [])
        posted[:] = [*(each for each in posted if not each._ended), transfer]
        return transfer

    def disconnect(self, peer: str) -> None:
        for transfer in self._posted.pop(peer, []):
            transfer.give_up(f"{peer} was disconnected")
        self._peers.pop(peer, None)

    def close(self) -> None:
        for peer in list(self._peers):
            self.disconnect(peer)
        for peer in list(self._admitted):
            self.evict(peer)

    def _door(self, peer: str) -> AdmittedPool:
        admission = self._peers.get(peer)
        door = None if admission is None else self._fabric.doors.get(admission)
        if door is None:
            raise LinkFailed(f"{peer} is not connected")
        if door.owner in self._fabric.dead:
            raise LinkFailed(f"{door.owner} is dead")
        return door
