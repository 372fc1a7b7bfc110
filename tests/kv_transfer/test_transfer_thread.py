"""The transfer thread's turns, driven by hand over the memory transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import pytest

from engine.runners.arithmetic_runner import ArithmeticRunner
from kv_transfer.endpoints.transfer_thread import TransferThread
from kv_transfer.endpoints.write_path import InPlaceWrites, RankPath, Written
from kv_transfer.errors import LinkFailed
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.probe import LinkSpeed, Probe
from kv_transfer.transports.transport import Transport

pytestmark = pytest.mark.quick

NUM_BLOCKS = 32
LAYOUT = ArithmeticRunner().layout
SIZE = LAYOUT.block_size


class Bench:
    """A transfer thread whose thread never starts, connected to the pools "a" and "b"."""

    def __init__(self, max_blocks_in_flight: int, max_part_blocks: int = NUM_BLOCKS) -> None:
        self.fabric = MemoryFabric()
        self.link = a_link("us", self.fabric)
        self.failed: list[tuple[str, str]] = []
        self.transfer_thread = TransferThread(
            self.link,
            lambda link, cause: self.failed.append((link, cause)),
            _raise,
            max_blocks_in_flight=max_blocks_in_flight,
        )
        self.done: list[str] = []
        self.written: list[Written] = []
        self.peers = {name: a_link(name, self.fabric) for name in "ab"}
        max_part_bytes = max_part_blocks * LAYOUT.block_bytes
        self.write_path = InPlaceWrites(LAYOUT, lambda blocks, first: len(blocks), max_part_bytes)
        for name, peer in self.peers.items():
            self.connect(name, peer.admit(name))

    def connect(self, name: str, admission: bytes, probe: object = None) -> list[object]:
        found: list[object] = []
        start = probe or at_once
        path = RankPath(name, admission, self.write_path, start)  # type: ignore[arg-type]
        self.transfer_thread.connect(name, [path], found.append)
        self.transfer_thread.turn()
        return found

    def write(self, name: str, link: str, num_blocks: int, latest_start: float = 0.0) -> None:
        blocks = tuple(range(num_blocks))
        block_write = BlockWrite(blocks, blocks, num_blocks * SIZE, 0)
        self.transfer_thread.write(link, block_write, self.told(name), latest_start)

    def told(self, name: str) -> Callable[[Written], None]:
        def tell(written: Written) -> None:
            self.written.append(written)
            self.done.append(written.cause or name)

        return tell

    def run(self) -> None:
        self.transfer_thread.turn()

    @property
    def in_flight(self) -> list[int]:
        return [len(part.block_write.blocks) for part in self.transfer_thread._writes.in_flight]


def at_once(transport: Transport) -> Probe:
    yield from ()
    return LinkSpeed(0.0, 1.0)


def a_link(name: str, fabric: MemoryFabric) -> MemoryTransport:
    link = MemoryTransport(name, fabric)
    link.register(ArithmeticRunner().allocate(NUM_BLOCKS), NUM_BLOCKS)
    return link


def _raise(error: Exception) -> None:
    raise error


def test_no_more_than_the_bound_is_under_way_to_one_peer() -> None:
    bench = Bench(max_blocks_in_flight=8)
    bench.fabric.stall()
    for name in "xyz":
        bench.write(name, "a", 4)
    bench.run()
    assert bench.in_flight == [4, 4]
    bench.fabric.resume()
    bench.run()
    assert bench.done == ["x", "y", "z"]


def test_one_peer_s_queue_does_not_hold_up_another_s() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.fabric.stall()
    bench.write("x", "a", 4)
    bench.write("y", "a", 4)
    bench.write("z", "b", 4)
    bench.run()
    assert [part.link for part in bench.transfer_thread._writes.in_flight] == ["a", "b"]


def test_a_write_larger_than_the_bound_goes_alone() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.fabric.stall()
    bench.write("x", "a", 20)
    bench.write("y", "a", 1)
    bench.run()
    assert bench.in_flight == [20]
    bench.fabric.resume()
    bench.run()
    assert bench.done == ["x", "y"]


def test_large_jobs_go_in_parts_and_are_told_once() -> None:
    bench = Bench(max_blocks_in_flight=8, max_part_blocks=4)
    bench.fabric.stall()
    bench.write("x", "a", 10)
    bench.run()
    assert bench.in_flight == [4, 4]
    bench.fabric.resume()
    bench.run()
    assert bench.done == ["x"]
    assert bench.written[0].checksum == 10


def test_the_job_with_the_least_laxity_goes_first() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.fabric.stall()
    bench.write("first", "a", 4)
    bench.run()
    for name, latest_start in (("relaxed", 9.0), ("urgent", 2.0), ("normal", 5.0)):
        bench.write(name, "a", 4, latest_start)
    bench.run()
    bench.fabric.resume()
    bench.run()
    assert bench.done == ["first", "urgent", "normal", "relaxed"]


def test_disconnecting_ends_all_writes_of_that_link_and_of_no_other() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.fabric.stall()
    for name, link in (("x", "a"), ("y", "a"), ("z", "b")):
        bench.write(name, link, 4)
    bench.run()
    over: list[str] = []
    bench.transfer_thread.disconnect("a", lambda: over.append("over"))
    bench.run()
    assert bench.done == ["the session ended", "the session ended"]
    assert over == ["over"]
    bench.fabric.resume()
    bench.run()
    assert bench.done[2:] == ["z"]


def test_a_failed_write_takes_its_link_down_and_says_so_first() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.fabric.stall()
    bench.write("x", "a", 4)
    bench.write("y", "a", 4)
    bench.run()
    bench.fabric.kill("a")
    bench.run()
    assert [link for link, _ in bench.failed] == ["a"]
    assert bench.done == ["a 1 is dead", "a 1 is dead"]


def test_a_link_that_fails_while_it_is_written_to_leaves_no_write_waiting() -> None:
    bench = Bench(max_blocks_in_flight=5)
    bench.fabric.stall()
    bench.write("x", "a", 2)
    bench.run()

    def break_off(peer: str, blocks: Sequence[int], remote_blocks: Sequence[int]) -> NoReturn:
        raise LinkFailed("cut")

    bench.link.write = break_off  # type: ignore[method-assign]
    bench.write("y", "a", 2)
    bench.write("z", "a", 4)
    bench.run()
    assert bench.done == ["cut", "cut", "a is not connected"]


def test_a_write_over_a_link_that_is_gone_fails() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.transfer_thread.disconnect("a", lambda: None)
    bench.write("x", "a", 4)
    bench.run()
    assert bench.done == ["a is not connected"]


def test_writes_wait_until_the_link_has_been_measured_and_others_do_not() -> None:
    bench = Bench(max_blocks_in_flight=4)
    measured = False

    def slow(transport: Transport) -> Probe:
        while not measured:
            yield
        return LinkSpeed(0.0, 7.0)

    found = bench.connect("slow", bench.peers["a"].admit("slow"), slow)
    bench.write("x", "slow", 1)
    bench.write("y", "b", 1)
    bench.run()
    assert (bench.done, found) == (["y"], [])
    measured = True
    bench.run()
    assert (bench.done, found) == (["y", "x"], [[LinkSpeed(0.0, 7.0)]])


def test_a_link_that_fails_while_it_is_measured_is_told_with_its_cause() -> None:
    bench = Bench(max_blocks_in_flight=4)

    def broken(transport: Transport) -> Probe:
        yield
        raise LinkFailed("cut")

    found = bench.connect("broken", bench.peers["a"].admit("broken"), broken)
    bench.run()
    assert found == ["cut"]
    assert bench.failed == [("broken", "cut")]


def test_a_link_that_is_given_up_while_it_is_measured_is_told_once() -> None:
    bench = Bench(max_blocks_in_flight=4)

    def endless(transport: Transport) -> Probe:
        while True:
            yield

    found = bench.connect("slow", bench.peers["a"].admit("slow"), endless)
    bench.transfer_thread.disconnect("slow", lambda: None)
    bench.run()
    bench.run()
    assert found == ["the session ended"]
    assert bench.failed == []


def test_a_peer_that_cannot_be_admitted_costs_its_link_alone() -> None:
    bench = Bench(max_blocks_in_flight=8)
    admitted: list[tuple[bytes, ...]] = []

    def refuse(pair: str) -> NoReturn:
        raise LinkFailed(f"admit {pair}: no memory")

    bench.link.admit = refuse  # type: ignore[method-assign]
    bench.transfer_thread.admit("c", ["c"], admitted.append)
    bench.write("x", "a", 4)
    bench.run()
    assert admitted == [()]
    assert bench.failed == [("c", "admit c: no memory")]
    assert bench.done == ["x"]
