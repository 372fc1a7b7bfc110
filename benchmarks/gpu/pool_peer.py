"""A block pool in the memory of a device, in another process, into which blocks are written."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
import xxhash
from torch import Tensor

from kv_transfer.layout.checksum import checksum_host_blocks
from kv_transfer.layout.checksum_stream import ChecksumStream
from kv_transfer.layout.region import CacheRegion

NAME = "peer"
ANSWER_S = 60.0
SPAWN = multiprocessing.get_context("spawn")
"""CUDA and NIXL do not live through a fork."""


class PoolPeer:
    """The process with the pool; `admission` is what a transport needs to write into it."""

    def __init__(
        self, device: str, num_bytes: int, num_blocks: int, ucx_env: dict[str, str]
    ) -> None:
        self._connection, theirs = SPAWN.Pipe()
        arguments = theirs, device, num_bytes, num_blocks, ucx_env
        self._process = SPAWN.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.admission: bytes = self._receive()

    def digests(self, blocks: Sequence[int]) -> tuple[list[int], int]:
        """What lies in these blocks now: a digest of each, and the checksum of all."""
        self._connection.send(list(blocks))
        found: tuple[list[int], int] = self._receive()
        return found

    def close(self) -> None:
        self._connection.close()
        self._process.join(ANSWER_S)
        self._process.kill()

    def _receive(self) -> Any:
        """Raises RuntimeError for what went wrong there, and TimeoutError."""
        if not self._connection.poll(ANSWER_S):
            raise TimeoutError(f"the other process says nothing for {ANSWER_S:.0f} s")
        found = self._connection.recv()
        if isinstance(found, Exception):
            raise RuntimeError(f"in the other process: {found}")
        return found


def region_of(pool: Tensor) -> CacheRegion:
    return CacheRegion(pool.data_ptr(), pool.numel(), str(pool.device), pool)


def digests(pool: Tensor, num_blocks: int, blocks: Sequence[int]) -> list[int]:
    """XXH3 of the bytes of each block, which are copied to the host."""
    by_block = pool.view(num_blocks, -1)
    return [xxhash.xxh3_64_intdigest(by_block[block].cpu().numpy().data) for block in blocks]


def checksum(pool: Tensor, num_blocks: int, blocks: Sequence[int]) -> int:
    """The checksum by which a handoff is verified, computed where the pool is."""
    block_bytes = pool.numel() // num_blocks
    if pool.device.type == "cpu":
        return checksum_host_blocks(pool.numpy().data, block_bytes, blocks)
    return ChecksumStream(pool.device).of_blocks(pool, block_bytes, blocks, 0).wait()


def _serve(
    connection: Connection, device: str, num_bytes: int, num_blocks: int, ucx_env: dict[str, str]
) -> None:
    try:
        from kv_transfer.transports.nixl.nixl_transport import NixlTransport

        pool = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        if pool.is_cuda:
            torch.cuda.synchronize(pool.device)  # the zeros come before what is written
        transport = NixlTransport(NAME, ucx_env, device=device)
        transport.register(region_of(pool), num_blocks)
        connection.send(transport.admit("writer"))
    except Exception as error:  # noqa: BLE001
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
        return
    _answer(connection, pool, num_blocks)
    transport.close()


def _answer(connection: Connection, pool: Tensor, num_blocks: int) -> None:
    while True:
        try:
            blocks = connection.recv()
        except EOFError:
            return
        found = digests(pool, num_blocks, blocks), checksum(pool, num_blocks, blocks)
        connection.send(found)
