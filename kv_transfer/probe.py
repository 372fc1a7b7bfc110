"""What a link gives, measured when it is made: a slow path is reported, never used silently."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from kv_transfer.transport import LinkFailed, Transport

NUM_SINGLE = 9
NUM_BULK = 3
BULK_BYTES = 2 * 1024 * 1024
DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """Of one direction. `latency_s` is the median time of a write of one block."""

    latency_s: float
    bytes_per_s: float

    def __str__(self) -> str:
        return f"{self.bytes_per_s / 1e9:.2f} GB/s, {self.latency_s * 1e6:.0f} us for one block"


def probe_link(
    transport: Transport,
    peer: str,
    block_bytes: int,
    scratch: tuple[int, int],
    clock: Callable[[], float] = time.monotonic,
) -> LinkSpeed:
    """Write our scratch block over the peer's, alone and many times in a row.

    Nobody uses scratch blocks for anything else. Raises LinkFailed, also when a write takes longer
    than DEADLINE_S.
    """
    own, theirs = scratch

    def write(count: int) -> float:
        started = clock()
        transfer = transport.write(peer, [own] * count, [theirs] * count)
        while not transfer.done():
            if clock() - started > DEADLINE_S:
                raise LinkFailed(f"{peer}: {count} blocks took more than {DEADLINE_S} s")
        return clock() - started

    write(1)  # makes the connection
    latency_s = statistics.median(write(1) for _ in range(NUM_SINGLE))
    count = max(1, BULK_BYTES // block_bytes)
    seconds = min(write(count) for _ in range(NUM_BULK))
    return LinkSpeed(latency_s, count * block_bytes / seconds)
