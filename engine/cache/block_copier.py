"""Copies whole blocks between the KV cache and host memory, while steps are computed."""

from __future__ import annotations

import ctypes
import logging
import mmap
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from kv_transfer.layout.region import CacheRegion

log = logging.getLogger(__name__)


class Copy(msgspec.Struct, frozen=True, gc=False):
    """Copies cache block blocks[i] to host block host_blocks[i]; with `up` from host to cache."""

    number: int
    blocks: tuple[int, ...]
    host_blocks: tuple[int, ...]
    up: bool


class Copied(msgspec.Struct, frozen=True, gc=False):
    """A copy that is over, and how long it took."""

    number: int
    seconds: float


class BlockCopier(Protocol):
    """Makes copies in the order of `start`. Until `take_copied` returns a copy, nobody else may
    write to its blocks on either side."""

    def start(self, copy: Copy) -> None:
        """Queue a copy of the content that all steps so far leave in the blocks."""
        ...

    def take_copied(self) -> Seq[Copied]:
        """Copies that ended since the last call. Raises the error of a copy that failed."""
        ...

    def close(self) -> None:
        """Stop after the copies that were started."""
        ...


class HostCopier:
    """Copies a KV cache that is in host memory, in one thread; moving bytes releases the GIL.

    Without `start_thread`, `turn` drives it by hand.
    """

    def __init__(self, cache: CacheRegion, host: CacheRegion, block_bytes: int) -> None:
        self._cache = rows_of(cache, block_bytes)
        self._host = rows_of(host, block_bytes)
        self._memory = cache.keepalive, host.keepalive
        self._copies: queue.SimpleQueue[Copy | None] = queue.SimpleQueue()
        self._ended: deque[Copied] = deque()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def start_thread(self) -> None:
        self._thread = threading.Thread(target=self._drive, name="blocks", daemon=True)
        self._thread.start()

    def start(self, copy: Copy) -> None:
        self._copies.put(copy)

    def take_copied(self) -> Seq[Copied]:
        if self._failure is not None:
            raise self._failure
        if not self._ended:
            return ()
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def close(self) -> None:
        self._copies.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)

    def turn(self) -> bool:
        """Make one copy, if one waits."""
        if self._copies.empty():
            return False
        copy = self._copies.get()
        if copy is not None:
            self._make(copy)
        return copy is not None

    def _drive(self) -> None:
        try:
            while (copy := self._copies.get()) is not None:
                self._make(copy)
        except Exception as error:  # raised in the engine's thread by take_copied
            log.exception("no more blocks are copied")
            self._failure = error

    def _make(self, copy: Copy) -> None:
        started = time.perf_counter()
        for block, host_block, count in runs(copy.blocks, copy.host_blocks):
            cache = self._cache[block : block + count].reshape(-1)
            host = self._host[host_block : host_block + count].reshape(-1)
            if copy.up:
                cache[:] = host
            else:
                host[:] = cache
        self._ended.append(Copied(copy.number, time.perf_counter() - started))


def rows_of(region: CacheRegion, block_bytes: int) -> npt.NDArray[np.uint8]:
    """Host memory as uint8 [blocks, block_bytes], without bytes behind the last whole block.

    The region's owner must be kept.
    """
    num_blocks = region.num_bytes // block_bytes
    memory = (ctypes.c_uint8 * (num_blocks * block_bytes)).from_address(region.address)
    return np.frombuffer(memoryview(memory), dtype=np.uint8).reshape(num_blocks, block_bytes)


def runs(blocks: Seq[int], host_blocks: Seq[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of pairs that are contiguous on both sides: (first block, first host block, count)."""
    first = 0
    for index in range(1, len(blocks) + 1):
        whole = index < len(blocks) and (
            blocks[index] == blocks[index - 1] + 1
            and host_blocks[index] == host_blocks[index - 1] + 1
        )
        if not whole:
            yield blocks[first], host_blocks[first], index - first
            first = index


def allocate_host(num_bytes: int) -> CacheRegion:
    """Host memory, committed when it is first touched. Raises OSError when there is not enough."""
    memory = mmap.mmap(-1, num_bytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return CacheRegion(address, num_bytes, "cpu", memory)
