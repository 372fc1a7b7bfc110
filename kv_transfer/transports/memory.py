"""The transport within one process, for tests: it can be made to stall, fail and deliver late."""

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
    """A pool as one peer is admitted to it; it is kept alive for as long as writes may come."""

    owner: str
    pool: CacheRegion
    block_bytes: int


class MemoryFabric:
    """The "network" between `MemoryTransport`s; tests inject faults through it."""

    def __init__(self) -> None:
        self.admitted: dict[str, AdmittedPool] = {}
        """Pools by admission."""
        self.dead: set[str] = set()
        self.flip_bits = 0
        """So many of the next writes arrive with one bit flipped."""
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
        """Stalled writes complete when they are next polled.

        Writes that were given up while they were stalled land now, where they are still admitted.
        """
        self._flowing = True
        late, self._late = self._late, []
        for admission, offset, content in late:
            self._land(admission, offset, content)

    def kill(self, name: str) -> None:
        """All writes to that worker's pool fail from now on."""
        self.dead.add(name)

    def admit(self, pool: AdmittedPool) -> str:
        admission = f"{pool.owner} {next(self._numbers)}"
        self.admitted[admission] = pool
        return admission

    def evict(self, admission: str) -> None:
        with self._lock:
            self.admitted.pop(admission, None)

    def copy(self, admission: str, base: int, spans: Offsets) -> None:
        """Raises LinkFailed when the peer has been evicted."""
        for own_offset, offset, num_bytes in spans.tolist():
            if not self._land(admission, offset, ctypes.string_at(base + own_offset, num_bytes)):
                raise LinkFailed(f"{admission} is not admitted any more")
        if len(spans) and self.flip_bits:
            self.flip_bits -= 1
            self._flip_a_bit(admission, int(spans[-1, 1]))

    def keep(self, admission: str, base: int, spans: Offsets) -> None:
        """Keep writes that were given up, with their bytes, so that they land late."""
        for own_offset, offset, num_bytes in spans.tolist():
            self._late.append((admission, offset, ctypes.string_at(base + own_offset, num_bytes)))

    def _land(self, admission: str, offset: int, content: bytes) -> bool:
        with self._lock:
            admitted = self.admitted.get(admission)
            if admitted is not None:
                ctypes.memmove(admitted.pool.address + offset, content, len(content))
            return admitted is not None

    def _flip_a_bit(self, admission: str, offset: int) -> None:
        byte = ctypes.c_uint8.from_address(self.admitted[admission].pool.address + offset)
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


class MemoryTransport:
    """Implements `kv_transfer.transports.transport.Transport` over one `MemoryFabric`."""

    name = "memory"
    direct_access = False

    def __init__(self, own_name: str, fabric: MemoryFabric) -> None:
        self._own_name = own_name
        self._fabric = fabric
        self._admitted: dict[str, str] = {}
        self._connected: dict[str, str] = {}
        self._posted: dict[str, list[MemoryTransfer]] = {}

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        self._pool = pool
        self._staging = staging
        self._block_bytes = pool.num_bytes // num_blocks

    def admit(self, pair: str) -> bytes:
        self.evict(pair)
        pool = AdmittedPool(self._own_name, self._pool, self._block_bytes)
        self._admitted[pair] = self._fabric.admit(pool)
        return self._admitted[pair].encode()

    def evict(self, pair: str) -> None:
        admission = self._admitted.pop(pair, None)
        if admission is not None:
            self._fabric.evict(admission)

    def connect(self, pair: str, admission: bytes) -> None:
        if admission.decode(errors="replace") not in self._fabric.admitted:
            raise BadPeer(f"{pair} has not admitted {self._own_name} on this fabric")
        self._connected[pair] = admission.decode()

    def write(
        self, pair: str, blocks: Sequence[int], remote_blocks: Sequence[int]
    ) -> MemoryTransfer:
        size, theirs = self._block_bytes, self._remote_pool(pair).block_bytes
        if size != theirs:
            raise BadPeer(f"{pair} has blocks of {theirs} bytes, ours have {size}")
        return self.write_spans(pair, block_spans(blocks, remote_blocks, size), staged=False)

    def write_spans(self, pair: str, spans: Offsets, *, staged: bool) -> MemoryTransfer:
        self._remote_pool(pair)
        memory = self._staging if staged else self._pool
        assert memory is not None, "nothing was registered to stage in"
        transfer = MemoryTransfer(self._fabric, self._connected[pair], memory.address, spans)
        posted = self._posted.setdefault(pair, [])
        posted[:] = [*(each for each in posted if not each._ended), transfer]
        return transfer

    def disconnect(self, pair: str) -> None:
        for transfer in self._posted.pop(pair, []):
            transfer.give_up(f"{pair} was disconnected")
        self._connected.pop(pair, None)

    def close(self) -> None:
        for pair in list(self._connected):
            self.disconnect(pair)
        for pair in list(self._admitted):
            self.evict(pair)

    def _remote_pool(self, pair: str) -> AdmittedPool:
        admission = self._connected.get(pair)
        pool = None if admission is None else self._fabric.admitted.get(admission)
        if pool is None:
            raise LinkFailed(f"{pair} is not connected")
        if pool.owner in self._fabric.dead:
            raise LinkFailed(f"{pool.owner} is dead")
        return pool
