"""The same tests over both transports; NIXL's peer is another process, so that it can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import pytest

from engine.runners.arithmetic_runner import ArithmeticRunner
from kv_transfer.errors import BadPeer, LinkFailed
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.probe import LinkSpeed, Probe, Scratch, probe_link
from kv_transfer.transports.transport import Transport

NUM_BLOCKS = 64
ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = {"UCX_NET_DEVICES": "lo"}


class Peer(Protocol):
    admission: bytes

    def evict(self) -> None: ...

    def values(self, block: int) -> list[int]: ...

    def kill(self) -> None: ...


class MemoryPeer:
    def __init__(self, fabric: MemoryFabric) -> None:
        self._fabric = fabric
        self._runner = ArithmeticRunner()
        self._link = MemoryTransport("peer", fabric)
        self._link.register(self._runner.allocate(NUM_BLOCKS), NUM_BLOCKS)
        self.admission = self._link.admit("us")

    def evict(self) -> None:
        self._link.evict("us")

    def values(self, block: int) -> list[int]:
        return sorted({int(value) for value in self._runner._cache[block].ravel()})

    def kill(self) -> None:
        self._fabric.kill("peer")


class NixlPeer:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kv_transfer.peer", str(NUM_BLOCKS), json.dumps(LOOPBACK)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._input, self._output = _pipes(self.process)
        self.admission = bytes.fromhex(self._output.readline())

    def evict(self) -> None:
        self._input.write("evict\n")
        self._input.flush()
        assert self._output.readline() == "null\n"

    def values(self, block: int) -> list[int]:
        self._input.write(f"{block}\n")
        self._input.flush()
        values: list[int] = json.loads(self._output.readline())
        return values

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._input.close()
        self._output.close()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


class Ends:
    """Our end, whose block i is filled with 100 + i, and a connected peer."""

    def __init__(self, link: Transport, peer: Peer) -> None:
        self.link = link
        self.peer = peer
        runner = ArithmeticRunner()
        link.register(runner.allocate(NUM_BLOCKS), NUM_BLOCKS)
        for block in range(NUM_BLOCKS):
            runner._cache[block] = 100 + block
        link.connect("peer", peer.admission)

    def write(self, blocks: list[int], remote_blocks: list[int]) -> None:
        transfer = self.link.write("peer", blocks, remote_blocks)
        deadline = time.monotonic() + 60
        while not transfer.done():
            assert time.monotonic() < deadline, "the write does not end"


@pytest.fixture(params=["memory", "nixl"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    if request.param == "memory":
        fabric = MemoryFabric()
        yield Ends(MemoryTransport("us", fabric), MemoryPeer(fabric))
        return
    peer = NixlPeer()
    link = NixlTransport(f"us-{os.getpid()}", LOOPBACK)
    yield Ends(link, peer)
    link.close()
    peer.close()


def test_blocks_land_in_the_blocks_they_were_meant_for(ends: Ends) -> None:
    ends.write([1, 2, 9], [30, 31, 5])
    found = [ends.peer.values(block) for block in (30, 31, 5, 32)]
    assert found == [[101], [102], [109], [0]]


def test_a_second_write_replaces_the_first(ends: Ends) -> None:
    ends.write([1], [3])
    ends.write([2], [3])
    assert ends.peer.values(3) == [102]


def test_spans_land_where_they_were_meant_to(ends: Ends) -> None:
    size = ArithmeticRunner().layout.block_bytes
    spans = np.array([[1 * size, 30 * size, size], [2 * size, 31 * size, size // 2]])
    transfer = ends.link.write_spans("peer", spans, staged=False)
    deadline = time.monotonic() + 60
    while not transfer.done():
        assert time.monotonic() < deadline, "the write does not end"
    assert [ends.peer.values(block) for block in (30, 31)] == [[101], [0, 102]]


def test_after_an_eviction_nothing_lands(ends: Ends) -> None:
    ends.write([1], [3])
    ends.peer.evict()
    with contextlib.suppress(LinkFailed):
        ends.write([2], [3])
    assert ends.peer.values(3) == [101]


def test_a_disconnected_peer_is_a_stranger_until_it_is_connected_again(ends: Ends) -> None:
    ends.write([1], [3])
    ends.link.disconnect("peer")
    with pytest.raises(LinkFailed, match="not connected"):
        ends.write([2], [3])
    ends.link.connect("peer", ends.peer.admission)
    ends.write([4], [3])
    assert ends.peer.values(3) == [104]


def test_connecting_again_is_no_error(ends: Ends) -> None:
    ends.link.connect("peer", ends.peer.admission)
    ends.write([7], [7])
    assert ends.peer.values(7) == [107]


def test_writing_to_a_stranger_fails(ends: Ends) -> None:
    with pytest.raises(LinkFailed, match="stranger"):
        ends.link.write("stranger", [1], [1])


def test_a_dead_peer_is_an_error_and_not_a_hang(ends: Ends) -> None:
    ends.write([1], [1])
    ends.peer.kill()
    with pytest.raises(LinkFailed, match="peer"):
        ends.write([2], [2])
    ends.link.disconnect("peer")
    ends.link.disconnect("peer")


def test_damaged_metadata_is_refused(ends: Ends) -> None:
    damaged = bytearray(ends.peer.admission)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BadPeer):
        ends.link.connect("another", bytes(damaged))


def test_an_idle_agent_does_not_spin() -> None:
    link = NixlTransport(f"idle-{os.getpid()}", LOOPBACK)
    runner = ArithmeticRunner()
    link.register(runner.allocate(NUM_BLOCKS), NUM_BLOCKS)
    started_wall, started_cpu = time.monotonic(), time.process_time()
    while time.monotonic() - started_wall < 0.5:
        time.sleep(0.05)  # the passing of idle time is the condition itself
    assert time.process_time() - started_cpu < 0.25
    link.close()


def test_a_link_s_speed_is_measured_with_the_scratch_block_alone(ends: Ends) -> None:
    number, size = NUM_BLOCKS - 1, ArithmeticRunner().layout.block_bytes
    probe = probe_link(ends.link, "peer", Scratch(number * size, number * size, size))
    speed = the_end_of(probe)
    assert speed.bytes_per_s > 0
    assert 0 < speed.latency_s < 60
    assert ends.peer.values(number) == [100 + number]
    assert ends.peer.values(number - 1) == [0]


def the_end_of(probe: Probe) -> LinkSpeed:
    try:
        while True:
            next(probe)
    except StopIteration as end:
        speed: LinkSpeed = end.value
        return speed
