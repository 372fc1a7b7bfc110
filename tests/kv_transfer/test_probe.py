"""How much a probe writes: little from host memory, and from a GPU what shows a fast rate."""

from __future__ import annotations

import pytest

from kv_transfer.transports.probe import LinkSpeed, Scratch, probe_link
from kv_transfer.transports.transport import Transport

pytestmark = pytest.mark.quick

MIB = 1024 * 1024
STARTING_S = 20e-6


class TimedLink:
    """Stands in for a transport: each write takes 20 us and its bytes by `bytes_per_s`."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self.now = 0.0
        self.sizes: list[int] = []

    def write_spans(self, pair: str, spans: object, *, staged: bool) -> TimedLink:
        num_bytes = int(spans[:, 2].sum())  # type: ignore[index]
        self.sizes.append(num_bytes)
        self.now += STARTING_S + num_bytes / self._bytes_per_s
        return self

    def done(self) -> bool:
        return True


def measured(bytes_per_s: float, block_bytes: int, *, on_gpu: bool) -> tuple[LinkSpeed, list[int]]:
    """The speed that a probe finds, and the sizes of its writes of many blocks."""
    link = TimedLink(bytes_per_s)
    transport: Transport = link  # type: ignore[assignment]
    probe = probe_link(transport, "peer", Scratch(0, 0, block_bytes, on_gpu), lambda: link.now)
    with pytest.raises(StopIteration) as end:
        next(probe)
    speed: LinkSpeed = end.value.value
    return speed, link.sizes[10:]


def test_host_memory_is_measured_with_two_megabytes() -> None:
    _, sizes = measured(10e9, 65536, on_gpu=False)
    assert sizes == [2 * MIB] * 3


@pytest.mark.parametrize("block_bytes", [2 * MIB, 65536])
def test_nvlink_shows_its_rate_and_not_its_latency(block_bytes: int) -> None:
    speed, sizes = measured(400e9, block_bytes, on_gpu=True)
    assert sizes == [2 * MIB] + [128 * MIB] * 3
    assert speed.bytes_per_s > 0.9 * 400e9


def test_between_gpus_too_a_slow_link_is_not_filled_for_seconds() -> None:
    speed, sizes = measured(100e6, 65536, on_gpu=True)
    assert sum(sizes) / 100e6 < 0.5
    assert speed.bytes_per_s == pytest.approx(100e6, rel=0.01)
    assert measured(1e6, 2 * MIB, on_gpu=True)[1] == [2 * MIB] * 4


def test_small_blocks_make_no_endless_lists() -> None:
    _, sizes = measured(400e9, 1024, on_gpu=True)
    assert sizes[1:] == [4096 * 1024] * 3
