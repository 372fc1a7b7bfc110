"""A raw block pool, ours or that of a peer process, to write into."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.transport import PostedTransfer

Bytes = npt.NDArray[np.uint8]

LOOPBACK = {"UCX_NET_DEVICES": "lo"}
CLOSE_S = 30
SPAWN = multiprocessing.get_context("spawn")
"""Processes are spawned: none may be forked after a NIXL agent has been made."""


def a_pool(num_bytes: int) -> tuple[Bytes, CacheRegion]:
    """Touched memory, in huge pages where the machine gives them."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    pool = np.frombuffer(memory, np.uint8)
    pool[:] = 1
    return pool, CacheRegion(pool.ctypes.data, num_bytes, "cpu", memory)


class PeerPool:
    """A pool in another process, which admits one writer for each of these links."""

    def __init__(
        self,
        num_bytes: int,
        num_blocks: int,
        links: Sequence[str] = ("peer",),
        ucx_env: dict[str, str] = LOOPBACK,
    ) -> None:
        self._connection, theirs = SPAWN.Pipe()
        arguments = (theirs, num_bytes, num_blocks, tuple(links), ucx_env)
        self._process = SPAWN.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.admissions: dict[str, bytes] = self._connection.recv()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def close(self) -> None:
        self._connection.close()
        self._process.join(CLOSE_S)


def _serve(
    connection: Connection,
    num_bytes: int,
    num_blocks: int,
    links: tuple[str, ...],
    ucx_env: dict[str, str],
) -> None:
    _, region = a_pool(num_bytes)
    link = NixlTransport("peer", ucx_env)
    link.register(region, num_blocks)
    connection.send({name: link.admit(name) for name in links})
    until_closed(connection)
    link.close()


def until_closed(connection: Connection) -> None:
    try:
        connection.recv_bytes()
    except EOFError:
        return


@contextmanager
def connected(
    region: CacheRegion,
    num_blocks: int,
    peer: PeerPool,
    ucx_env: dict[str, str] = LOOPBACK,
    staging: CacheRegion | None = None,
) -> Iterator[NixlTransport]:
    """A transport that is connected to the peer under each name that it admits."""
    link = NixlTransport(f"bench-{os.getpid()}", ucx_env)
    link.register(region, num_blocks, staging)
    for name, admission in peer.admissions.items():
        link.connect(name, admission)
    yield link
    link.close()


def finish(transfer: PostedTransfer) -> None:
    while not transfer.done():
        pass
