"""The cost of a write beside its bytes: its fixed part, and checksums."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from benchmarks.measure import Times, alternate, timed
from benchmarks.pool import PeerPool, a_pool, connected, finish
from kv_transfer.layout.checksum import checksum_host_blocks

SMALL_BYTES = 4 << 10
NUM_SMALL = 2000
BLOCK_SIZES = (16 << 10, 64 << 10, 256 << 10)
NUM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Digested:
    """Duration of the checksum of blocks beside that of their write."""

    block_bytes: int
    checksum: Times
    write: Times

    @property
    def gb_s(self) -> float:
        return NUM_BYTES / self.checksum.median_s / 1e9

    @property
    def of_write(self) -> float:
        return self.write.speed_beside(self.checksum)


def fixed_s(ucx_env: dict[str, str]) -> float:
    """Median seconds of a prepared write of one block of 4 KiB, from the call to its end."""
    num_bytes, num_blocks = 256 * SMALL_BYTES, 256
    _, region = a_pool(num_bytes)
    with (
        closing(PeerPool(num_bytes, num_blocks, ucx_env=ucx_env)) as peer,
        connected(region, num_blocks, peer, ucx_env) as link,
    ):

        def write() -> None:
            finish(link.write("peer", (7,), (9,)))

        write()
        return statistics.median(timed(write) for _ in range(NUM_SMALL))


def checksums(rounds: int, ucx_env: dict[str, str]) -> Iterator[Digested]:
    for block_bytes in BLOCK_SIZES:
        num_blocks = NUM_BYTES // block_bytes
        pool, region = a_pool(NUM_BYTES)
        order = tuple(reversed(range(num_blocks)))
        remote_blocks = tuple(range(num_blocks))
        with (
            closing(PeerPool(NUM_BYTES, num_blocks, ucx_env=ucx_env)) as peer,
            connected(region, num_blocks, peer, ucx_env) as link,
        ):
            checksum, write = alternate(
                lambda: checksum_host_blocks(pool.data, block_bytes, order),  # noqa: B023
                lambda: finish(link.write("peer", order, remote_blocks)),  # noqa: B023
                rounds=rounds,
            )
        yield Digested(block_bytes, checksum, write)
