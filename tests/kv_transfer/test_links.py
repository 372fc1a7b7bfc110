"""Both transports by the same tests; NIXL's peer is another process, so that it can be killed."""

from __future__ import annotations

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

from engine.arithmetic import ArithmeticRunner
from kv_transfer.memory_link import MemoryFabric, MemoryLink
from kv_transfer.nixl_link import NixlLink
from kv_transfer.probe import probe_link
from kv_transfer.transport import BadPeer, LinkFailed, Transport

NUM_BLOCKS = 64
ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = {"UCX_NET_DEVICES": "lo"}


class Peer(Protocol):
    metadata: bytes

    def values(self, block: int) -> list[int]: ...

    def kill(self) -> None: ...


class MemoryPeer:
    def __init__(self, fabric: MemoryFabric) -> None:
        self._fabric = fabric
        self._runner = ArithmeticRunner()
        self._link = MemoryLink("peer", fabric)
        self._link.register(self._runner.allocate(NUM_BLOCKS), NUM_BLOCKS)
        self.metadata = self._link.metadata()

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
        self.metadata = bytes.fromhex(self._output.readline())

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
        runner._cache[:] = 100 + np.arange(NUM_BLOCKS)[:, None, None]
        link.connect("peer", peer.metadata)

    def write(self, blocks: list[int], pages: list[int]) -> None:
        transfer = self.link.write("peer", blocks, pages)
        deadline = time.monotonic() + 20
        while not transfer.done():
            assert time.monotonic() < deadline, "the write does not end"


@pytest.fixture(params=["memory", "nixl"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    if request.param == "memory":
        fabric = MemoryFabric()
        yield Ends(MemoryLink("us", fabric), MemoryPeer(fabric))
        return
    peer = NixlPeer()
    link = NixlLink(f"us-{os.getpid()}", LOOPBACK)
    yield Ends(link, peer)
    link.close()
    peer.close()


def test_blocks_land_in_the_pages_they_were_meant_for(ends: Ends) -> None:
    ends.write([1, 2, 9], [30, 31, 5])
    found = [ends.peer.values(page) for page in (30, 31, 5, 32)]
    assert found == [[101], [102], [109], [0]]


def test_a_second_write_replaces_the_first(ends: Ends) -> None:
    ends.write([1], [3])
    ends.write([2], [3])
    assert ends.peer.values(3) == [102]


def test_connecting_again_is_no_error(ends: Ends) -> None:
    ends.link.connect("peer", ends.peer.metadata)
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
    damaged = bytearray(ends.peer.metadata)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BadPeer):
        ends.link.connect("another", bytes(damaged))


def test_an_idle_agent_does_not_spin() -> None:
    link = NixlLink(f"idle-{os.getpid()}", LOOPBACK)
    runner = ArithmeticRunner()
    link.register(runner.allocate(NUM_BLOCKS), NUM_BLOCKS)
    started_wall, started_cpu = time.monotonic(), time.process_time()
    while time.monotonic() - started_wall < 0.5:
        time.sleep(0.05)  # the passing of idle time is the condition itself
    assert time.process_time() - started_cpu < 0.25
    link.close()


def test_a_link_s_speed_is_measured_with_the_scratch_block_alone(ends: Ends) -> None:
    scratch = NUM_BLOCKS - 1
    speed = probe_link(ends.link, "peer", 256, (scratch, scratch))
    assert speed.bytes_per_s > 0
    assert 0 < speed.latency_s < 1
    assert ends.peer.values(scratch) == [100 + scratch]
    assert ends.peer.values(scratch - 1) == [0]
