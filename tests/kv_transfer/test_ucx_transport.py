"""Blocks over UCX; the peer is another process, so that it can be stopped and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ucxx")

from kv_transfer.errors import BadPeer, LinkFailed, TransferError
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.transport import PostedTransfer
from kv_transfer.transports.ucx.frames import FRAME_BYTES, view
from kv_transfer.transports.ucx.ucx_transport import UcxTransport
from tests.kv_transfer.ucx_peer import BLOCK_BYTES, NUM_BLOCKS, host_pool

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = {"UCX_NET_DEVICES": "lo"}
ALL = list(range(NUM_BLOCKS))


class Peer:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kv_transfer.ucx_peer", json.dumps(LOOPBACK)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ending = False

    def ask(self, order: str, argument: str | int) -> Any:
        self.tell(order, argument)
        return self.answer()

    def tell(self, order: str, argument: str | int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([order, argument]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def admit(self, name: str) -> bytes:
        return bytes.fromhex(self.ask("admit", name))

    def values(self, block: int) -> list[int]:
        values: list[int] = self.ask("values", block)
        return values

    def signal(self, number: signal.Signals) -> None:
        self.ending = number != signal.SIGCONT
        self.process.send_signal(number)

    def close(self) -> None:
        self.ending = True
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Us:
    """A worker of this process: its block i is filled with 100 + i, its staging memory with 7."""

    def __init__(self, name: str) -> None:
        self.name = name
        pool, staging = host_pool(NUM_BLOCKS), host_pool(1)
        self.blocks = view(pool).reshape(NUM_BLOCKS, BLOCK_BYTES)
        self.blocks[:] = 100 + np.arange(NUM_BLOCKS)[:, None]
        view(staging)[:] = 7
        self.link = UcxTransport(name, LOOPBACK)
        self.link.register(pool, NUM_BLOCKS, staging)

    def join(self, peer: Peer) -> None:
        self.link.connect("peer", peer.admit(self.name))

    def write(self, blocks: list[int], remote_blocks: list[int]) -> None:
        land(self.link.write("peer", blocks, remote_blocks))


def land(transfer: PostedTransfer) -> None:
    until(transfer.done)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"


def flood_from(peer: Peer, us: Us) -> None:
    """Returns when zeros arrive."""
    peer.ask("join", us.link.admit(f"pid {peer.process.pid}").hex())
    peer.tell("flood", 0)
    until(lambda: not us.blocks[NUM_BLOCKS - 1].any())


def ends(transfer: PostedTransfer) -> float:
    """Seconds until the transfer fails."""
    started = time.monotonic()
    with pytest.raises(LinkFailed, match="peer"):
        land(transfer)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def peers() -> Iterator[list[Peer]]:
    """At most one, which lives until a test ends it: starting takes most of a second."""
    peers: list[Peer] = []
    yield peers
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(peers: list[Peer]) -> Iterator[Peer]:
    """Its pool is zeros."""
    peer = peers.pop() if peers else Peer()
    peer.ask("clear", 0)
    yield peer
    if peer.process.poll() is None and not peer.ending:
        peers.append(peer)
    else:
        peer.close()


@pytest.fixture
def us(peer: Peer) -> Iterator[Us]:
    us = Us("us")
    us.join(peer)
    yield us
    us.link.close()


@pytest.fixture
def others(peer: Peer) -> Iterator[Us]:
    others = Us("others")
    others.join(peer)
    yield others
    others.link.close()


def test_blocks_land_in_the_blocks_they_were_meant_for(us: Us, peer: Peer) -> None:
    us.write([1, 2, 9], [30, 31, 5])
    found = [peer.values(block) for block in (30, 31, 5, 32)]
    assert found == [[101], [102], [109], [0]]


def test_a_second_write_replaces_the_first(us: Us, peer: Peer) -> None:
    us.write(ALL, ALL)
    us.write(ALL, ALL[::-1])
    assert [peer.values(block) for block in ALL] == [[163 - block] for block in ALL]


def test_spans_land_from_pool_and_staging(us: Us, peer: Peer) -> None:
    rows = [[BLOCK_BYTES - 3, 4 * BLOCK_BYTES - 1, 5], [0, 10 * BLOCK_BYTES, BLOCK_BYTES]]
    land(us.link.write_spans("peer", np.array(rows, np.int64), staged=False))
    land(us.link.write_spans("peer", np.array([[8, 6 * BLOCK_BYTES, 9]], np.int64), staged=True))
    found = [peer.values(block) for block in (3, 4, 5, 6, 10)]
    assert found == [[0, 100], [0, 100, 101], [0], [0, 7], [100]]


def test_a_span_may_be_longer_than_a_parcel(us: Us, peer: Peer) -> None:
    length = 3 * FRAME_BYTES
    land(us.link.write_spans("peer", np.array([[0, 1, length]], np.int64), staged=False))
    num_blocks = length // BLOCK_BYTES
    assert peer.values(num_blocks - 1) == [100 + num_blocks - 2, 100 + num_blocks - 1]
    assert peer.values(num_blocks) == [0, 100 + num_blocks - 1]


def test_writing_nothing_is_done(us: Us) -> None:
    us.write([], [])


def test_writing_to_a_stranger_fails(us: Us) -> None:
    with pytest.raises(LinkFailed, match="stranger"):
        us.link.write("stranger", [1], [1])


def test_another_block_size_takes_spans_only(us: Us, peer: Peer) -> None:
    halves = Us("halves")
    halves.link.register(host_pool(1), 2)
    halves.join(peer)
    with pytest.raises(BadPeer, match=str(BLOCK_BYTES // 2)):
        halves.link.write("peer", [1], [1])
    halves.link.close()


@pytest.mark.parametrize("block", [NUM_BLOCKS, -1, 1 << 40])
def test_blocks_outside_the_pool_are_refused_and_the_link_lives(
    us: Us, peer: Peer, block: int
) -> None:
    ends(us.link.write("peer", [1, 2], [3, block]))
    us.write([5], [5])
    assert [peer.values(block) for block in (3, 5)] == [[0], [105]]


def test_damaged_admissions_are_refused(us: Us, peer: Peer) -> None:
    admission = peer.admit("us again")
    for place in range(0, len(admission), 7):
        damaged = bytearray(admission)
        damaged[place] ^= 1
        with pytest.raises(BadPeer, match="another"):
            us.link.connect("another", bytes(damaged))
    with pytest.raises(BadPeer):
        us.link.connect("another", b"")


def test_eviction_ends_one_peer_s_writes_and_not_another_s(us: Us, others: Us, peer: Peer) -> None:
    us.write([1], [1])
    transfer = us.link.write("peer", ALL, ALL)
    peer.ask("evict", "us")
    others.write([9] * NUM_BLOCKS, ALL)
    assert ends(transfer) < 10
    assert [peer.values(block) for block in ALL] == [[109]] * NUM_BLOCKS
    peer.ask("evict", "us")


def test_an_old_admission_is_worth_nothing(us: Us, peer: Peer) -> None:
    old = peer.admit("us")
    us.link.connect("peer", peer.admit("us"))
    us.write([1], [1])
    with pytest.raises(LinkFailed, match="older"):
        us.link.connect("older", old)


def test_an_evicted_peer_can_be_admitted_again(us: Us, peer: Peer) -> None:
    peer.ask("evict", "us")
    us.join(peer)
    us.write([1], [1])
    assert peer.values(1) == [101]


def test_a_link_is_made_again_with_the_same_admission(us: Us, peer: Peer) -> None:
    admission = peer.admit("us")
    for block in (1, 2, 3):
        us.link.connect("peer", admission)
        us.write([block], [1])
        us.link.disconnect("peer")
    assert peer.values(1) == [103]


@pytest.mark.parametrize("polls", [0, 1, 20])
def test_a_killed_peer_is_an_error_and_not_a_hang(us: Us, peer: Peer, polls: int) -> None:
    transfer = us.link.write("peer", ALL, ALL)
    for _ in range(polls):
        assert not transfer.done()
    peer.signal(signal.SIGKILL)
    assert ends(transfer) < 10
    with pytest.raises(LinkFailed, match="peer"):
        us.link.write("peer", [1], [1])
    us.link.disconnect("peer")
    us.link.disconnect("peer")


def test_a_peer_that_dies_between_writes_is_an_error(us: Us, peer: Peer) -> None:
    us.write([1], [1])
    peer.signal(signal.SIGKILL)
    peer.process.wait()
    with pytest.raises(LinkFailed, match="peer"):
        us.write([1], [1])


def test_nobody_connects_to_a_dead_peer(us: Us, peer: Peer) -> None:
    admission = peer.admit("us")
    peer.close()
    with pytest.raises(LinkFailed, match="peer"):
        us.link.connect("peer", admission)
    with pytest.raises(LinkFailed, match="not connected"):
        us.link.write("peer", [1], [1])


def test_a_stopped_peer_leaves_its_writers_waiting_and_can_be_left(us: Us, peer: Peer) -> None:
    peer.signal(signal.SIGSTOP)
    transfer = us.link.write("peer", ALL, ALL)
    assert not any(transfer.done() for _ in range(1000))
    started = time.monotonic()
    us.link.disconnect("peer")
    assert time.monotonic() - started < 10
    ends(transfer)


@pytest.mark.parametrize("stopped", [True, False])
def test_nothing_lands_late_from_a_writer_that_was_evicted(
    us: Us, peer: Peer, stopped: bool
) -> None:
    flood_from(peer, us)
    if stopped:
        peer.signal(signal.SIGSTOP)
    us.link.evict(f"pid {peer.process.pid}")
    us.blocks[:] = 200
    peer.signal(signal.SIGCONT)
    assert "us" in peer.answer()
    assert (us.blocks == 200).all()


def test_a_writer_that_dies_leaves_the_receive_ends_of_others_open(us: Us, peer: Peer) -> None:
    flood_from(peer, us)
    peer.close()
    another = Peer()
    us.blocks[:] = 200
    flood_from(another, us)
    another.close()


def test_a_disconnected_write_fails_and_a_finished_one_does_not(us: Us) -> None:
    finished, broken = us.link.write("peer", [1], [1]), us.link.write("peer", ALL, ALL)
    land(finished)
    assert not broken.done()
    us.link.disconnect("peer")
    assert finished.done()
    ends(broken)


def test_memory_of_a_device_is_refused() -> None:
    link = UcxTransport("device", LOOPBACK)
    with pytest.raises(TransferError, match="cuda:0"):
        link.register(CacheRegion(4096, 4096, "cuda:0", None), 1)
    link.close()


def test_an_idle_link_does_not_spin(us: Us) -> None:
    us.link.admit("peer")
    started_wall, started_cpu = time.monotonic(), time.process_time()
    while time.monotonic() - started_wall < 0.5:
        time.sleep(0.05)  # the passing of idle time is the condition itself
    assert time.process_time() - started_cpu < 0.1
