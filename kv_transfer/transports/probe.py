"""Measures latency and rate of a link when it is made, so that a slow one is reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kv_transfer.errors import LinkFailed
from kv_transfer.transports.transport import Transport

NUM_SINGLE = 9
NUM_BULK = 3
BULK_BYTES = 2 * 1024 * 1024
GPU_BULK_BYTES = 128 * 1024 * 1024
"""NVLink carries 2 MB in less time than it takes to begin: they would measure its latency."""
GPU_BULK_S = 0.1
"""A link that turns out to be slow gets as many bytes as it carries in this time."""
MAX_BULK_SPANS = 4096
"""Small blocks are fewer bytes: each is a descriptor for the transport."""
DEADLINE_S = 15.0
BUSY_S = 0.0005
"""How long a probe polls one write before it yields to the others."""


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """The speed of a link in one direction; `latency_s` is the median time to write one block."""

    latency_s: float
    bytes_per_s: float

    def __str__(self) -> str:
        return f"{self.bytes_per_s / 1e9:.2f} GB/s, {self.latency_s * 1e6:.0f} us for one block"


def as_one(speeds: Sequence[LinkSpeed], shares: Sequence[float]) -> LinkSpeed:
    """The speed of a link whose rank pairs carry these shares of its bytes, all at the same time.

    A write over the link has ended when its part over the slowest rank pair has.
    """
    rates = [speed.bytes_per_s / share for speed, share in zip(speeds, shares, strict=True)]
    return LinkSpeed(max(speed.latency_s for speed in speeds), min(rates))


Probe = Generator[None, None, LinkSpeed]
"""A measurement that yields whenever it has to wait, and returns the speed. Raises LinkFailed."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A scratch block in either pool, by its byte offset; `num_bytes` may be written."""

    own_offset: int
    their_offset: int
    num_bytes: int
    on_gpu: bool = False
    """Whether it is a GPU's memory, which may be read very fast."""


def probe_link(
    transport: Transport,
    pair: str,
    scratch: Scratch,
    clock: Callable[[], float] = time.monotonic,
) -> Probe:
    """Measure a rank pair: write our scratch block over the peer's, alone and many in a row.

    The row has BULK_BYTES, or from a GPU then as many as a fast link needs to show its rate.
    Raises LinkFailed, also when a write takes longer than DEADLINE_S.
    """

    def write(count: int) -> Generator[None, None, float]:
        row = (scratch.own_offset, scratch.their_offset, scratch.num_bytes)
        started = clock()
        transfer = transport.write_spans(pair, np.array([row] * count), staged=False)
        gives_way_at = started + BUSY_S
        while not transfer.done():
            if clock() - started > DEADLINE_S:
                raise LinkFailed(f"{pair}: {count} blocks took more than {DEADLINE_S} s")
            if clock() > gives_way_at:
                yield
                gives_way_at = clock() + BUSY_S
        return clock() - started

    yield from write(1)  # makes the connection
    singles = []
    for _ in range(NUM_SINGLE):
        singles.append((yield from write(1)))
    count = max(1, BULK_BYTES // scratch.num_bytes)
    if scratch.on_gpu:
        count = _num_gpu_spans(count, scratch.num_bytes, (yield from write(count)))
    bulks = []
    for _ in range(NUM_BULK):
        bulks.append((yield from write(count)))
    return LinkSpeed(statistics.median(singles), count * scratch.num_bytes / min(bulks))


def _num_gpu_spans(count: int, num_bytes: int, seconds: float) -> int:
    """The length of a row of blocks of `num_bytes`, when a row of `count` has taken `seconds`."""
    fits = int(count * GPU_BULK_S / max(seconds, 1e-9))
    return max(count, min(fits, GPU_BULK_BYTES // num_bytes, MAX_BULK_SPANS))


OnSpeeds = Callable[[Sequence[LinkSpeed] | str], None]
"""Gets the speed of each rank pair of a link, or the cause why there are none."""


@dataclass(slots=True, eq=False)
class LinkProbes:
    """The probes of one link's rank pairs, which run at the same time; none blocks another."""

    link: str
    probes: Sequence[Probe]
    on_result: OnSpeeds
    _found: dict[int, LinkSpeed] = field(default_factory=dict)

    def advance(self) -> list[LinkSpeed] | None:
        """Let each probe go on until it waits; all speeds once the last one has ended.

        Raises LinkFailed.
        """
        for number, probe in enumerate(self.probes):
            if number not in self._found:
                try:
                    next(probe)
                except StopIteration as end:
                    self._found[number] = end.value
        if len(self._found) < len(self.probes):
            return None
        return [self._found[number] for number in range(len(self.probes))]
