"""The ways to write blocks into another process that are compared."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Protocol

import numpy as np

from benchmarks.pool import (
    CLOSE_S,
    SPAWN,
    Bytes,
    PeerPool,
    a_pool,
    connected,
    finish,
    until_closed,
)
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets, merge
from kv_transfer.transports.nixl.nixl_transport import NixlTransport

HEADER = struct.Struct("<q")
SPAN_BYTES = 24


class Path(Protocol):
    """Writes blocks of one size from our pool to that of the process `pid`."""

    name: str
    pid: int

    def write(self, blocks: Sequence[int], remote_blocks: Sequence[int]) -> None:
        """Returns when all blocks have arrived."""
        ...


class NixlPath:
    """NIXL: prepared descriptors, one-sided writes."""

    name = "NIXL"

    def __init__(self, link: NixlTransport, pid: int) -> None:
        self._link = link
        self.pid = pid

    def write(self, blocks: Sequence[int], remote_blocks: Sequence[int]) -> None:
        finish(self._link.write("peer", blocks, remote_blocks))


class SharedPath:
    """Shared memory: the other process has mapped it, and we copy into it."""

    name = "shared memory"

    def __init__(self, pool: Bytes, block_bytes: int) -> None:
        self._source = pool.ctypes.data
        self._block_bytes = block_bytes
        self._memory = SharedMemory(create=True, size=len(pool))
        self._connection, theirs = SPAWN.Pipe()
        arguments = (theirs, self._memory.name)
        self._process = SPAWN.Process(target=_map, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()
        mapped: Bytes = np.ndarray((len(pool),), np.uint8, buffer=self._memory.buf)
        mapped[:] = 1
        self._target: int = mapped.ctypes.data
        assert self._process.pid is not None
        self.pid = self._process.pid

    def write(self, blocks: Sequence[int], remote_blocks: Sequence[int]) -> None:
        for ours, theirs, size in spans_of(blocks, remote_blocks, self._block_bytes).tolist():
            ctypes.memmove(self._target + theirs, self._source + ours, size)

    def close(self) -> None:
        self._connection.close()
        self._process.join(CLOSE_S)
        self._memory.close()
        self._memory.unlink()


class SocketPath:
    """TCP: a plain connection over loopback, two-sided."""

    name = "TCP socket"

    def __init__(self, pool: Bytes, block_bytes: int) -> None:
        self._view = pool.data
        self._block_bytes = block_bytes
        with socket.create_server(("127.0.0.1", 0)) as server:
            arguments = (server.getsockname()[1], len(pool))
            self._process = SPAWN.Process(target=_receive, args=arguments, daemon=True)
            self._process.start()
            self._socket, _ = server.accept()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.recv(1)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def write(self, blocks: Sequence[int], remote_blocks: Sequence[int]) -> None:
        spans = spans_of(blocks, remote_blocks, self._block_bytes)
        self._socket.sendall(HEADER.pack(len(spans)) + spans.tobytes())
        for ours, _, size in spans.tolist():
            self._socket.sendall(self._view[ours : ours + size])
        self._socket.recv(1)

    def close(self) -> None:
        self._socket.close()
        self._process.join(CLOSE_S)


@contextmanager
def all_paths(pool_bytes: int, block_bytes: int, ucx_env: dict[str, str]) -> Iterator[list[Path]]:
    """Opens all paths, each to a peer process of its own, from one pool of ours."""
    num_blocks = pool_bytes // block_bytes
    pool, region = a_pool(pool_bytes)
    with ExitStack() as stack:
        nixl = stack.enter_context(a_nixl_path(region, num_blocks, ucx_env))
        shared = stack.enter_context(closing(SharedPath(pool, block_bytes)))
        yield [nixl, shared, stack.enter_context(closing(SocketPath(pool, block_bytes)))]


@contextmanager
def a_nixl_path(
    region: CacheRegion, num_blocks: int, ucx_env: dict[str, str]
) -> Iterator[NixlPath]:
    with (
        closing(PeerPool(region.num_bytes, num_blocks, ucx_env=ucx_env)) as peer,
        connected(region, num_blocks, peer, ucx_env) as link,
    ):
        yield NixlPath(link, peer.pid)


def spans_of(blocks: Sequence[int], remote_blocks: Sequence[int], block_bytes: int) -> Offsets:
    """Spans as in kv_transfer.layout.reshard: neighbours on both sides are merged."""
    spans = np.empty((len(blocks), 3), np.int64)
    spans[:, 0] = blocks
    spans[:, 1] = remote_blocks
    spans[:, :2] *= block_bytes
    spans[:, 2] = block_bytes
    return merge(spans)


def _map(connection: Connection, name: str) -> None:
    memory = SharedMemory(name=name)
    connection.send(os.getpid())
    until_closed(connection)
    memory.close()


def _receive(port: int, num_bytes: int) -> None:
    pool, _ = a_pool(num_bytes)
    view = pool.data
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller.sendall(b"r")
        while header := caller.recv(HEADER.size, socket.MSG_WAITALL):
            (num_spans,) = HEADER.unpack(header)
            body = caller.recv(num_spans * SPAN_BYTES, socket.MSG_WAITALL)
            for _, start, size in np.frombuffer(body, np.int64).reshape(-1, 3).tolist():
                _fill(caller, view[start : start + size])
            caller.sendall(b"d")


def _fill(caller: socket.socket, target: memoryview) -> None:
    while target:
        target = target[caller.recv_into(target) :]
