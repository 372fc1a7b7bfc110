"""The courier's turns, driven by hand over the memory transport."""

from __future__ import annotations

from collections.abc import Callable

from engine.arithmetic import ArithmeticRunner
from kv_transfer.courier import Courier, WriteJob
from kv_transfer.memory_link import MemoryFabric, MemoryLink

NUM_BLOCKS = 32


class Bench:
    """A courier whose thread never starts: `run` takes its jobs and turns it."""

    def __init__(self, max_blocks_in_flight: int) -> None:
        self.fabric = MemoryFabric()
        self.link = a_link("us", self.fabric)
        a_link("a", self.fabric)
        a_link("b", self.fabric)
        for peer in ("a", "b"):
            self.link.connect(peer, peer.encode())
        self.courier = Courier(self.link, _raise, max_blocks_in_flight=max_blocks_in_flight)
        self.done: list[str] = []

    def write(self, name: str, peer: str, num_blocks: int) -> None:
        blocks = tuple(range(num_blocks))
        self.courier.write(WriteJob(peer, blocks, blocks, self.told(name)))

    def told(self, name: str) -> Callable[[float, float, str | None], None]:
        return lambda started, ended, cause: self.done.append(name if cause is None else cause)

    def run(self) -> None:
        while not self.courier._jobs.empty():
            job = self.courier._jobs.get()
            assert job is not None
            job()
        self.courier._turn()

    @property
    def in_flight(self) -> list[int]:
        return [len(flight.job.blocks) for flight in self.courier._flights]


def a_link(name: str, fabric: MemoryFabric) -> MemoryLink:
    link = MemoryLink(name, fabric)
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
    assert [flight.job.peer for flight in bench.courier._flights] == ["a", "b"]


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


def test_a_peer_is_forgotten_only_when_its_last_write_has_ended() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.fabric.stall()
    bench.write("x", "a", 4)
    bench.write("y", "a", 4)
    bench.courier.disconnect("a")
    bench.run()
    assert "a" in bench.link._peers
    bench.fabric.resume()
    bench.run()
    assert bench.done == ["x", "y"]
    assert "a" not in bench.link._peers


def test_a_write_to_a_dead_peer_is_told_with_its_cause() -> None:
    bench = Bench(max_blocks_in_flight=4)
    bench.write("x", "a", 4)
    bench.fabric.kill("a")
    bench.run()
    assert bench.done == ["a is dead"]
