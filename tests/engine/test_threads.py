"""A step takes cores that nobody else wants, and gives them back."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor
from pathlib import Path

import pytest
import torch

from engine.device.cores import Cores, CpuTimes, count_cores, read_cores
from engine.device.threads import Threads

pytestmark = pytest.mark.quick

LAYER_S = 0.011
A_MOMENT_S = 0.1


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """Cores that go round among all who want them; Linux counts idle time in hundredths."""

    def __init__(self, num_cores: int = 2) -> None:
        self.num_cores = num_cores
        self.now = 1000.0
        self.idle_s = 0.0
        self.others = 0.0
        """Cores that others want."""
        self.num_fleeting = 0
        """More threads that run for an instant, whenever somebody looks."""
        self.workers: list[Worker] = []

    def run(self, seconds: float, *stepping: Worker) -> None:
        """Time passes, in which these compute."""
        threads = [worker.threads.number for worker in stepping]
        share = min(1.0, self.num_cores / (sum(threads) + self.others or 1))
        for worker, number in zip(stepping, threads, strict=True):
            worker.ours_s += number * share * seconds
        self.idle_s += max(0.0, self.num_cores - sum(threads) - self.others) * seconds
        self.now += seconds

    def work(self, seconds: float, *stepping: Worker) -> None:
        """The same in layers, before each of which they look."""
        end = self.now + seconds
        while self.now < end:
            for worker in stepping:
                worker.threads.adjust()
            self.run(LAYER_S, *stepping)

    def numbers(self, *stepping: Worker) -> set[int]:
        """Of threads that each of them uses, after any of fifty layers."""
        found: set[int] = set()
        for _ in range(50):
            self.work(LAYER_S, *stepping)
            found |= {worker.threads.number for worker in stepping}
        return found


class Worker:
    """Has `least` threads and takes up to `most`."""

    def __init__(self, machine: Machine, least: int = 1, most: int | None = 2) -> None:
        self.machine = machine
        self.ours_s = 0.0
        self.num_looks = 0
        cores = Cores(machine.num_cores, machine.num_cores)
        self.threads = Threads(least, most, cores, read=self.read, clock=lambda: machine.now)
        machine.workers.append(self)

    def read(self) -> CpuTimes | None:
        self.num_looks += 1
        machine = self.machine
        running = sum(worker.threads.number for worker in machine.workers if worker is not self)
        running += self.threads.number + round(machine.others) + machine.num_fleeting
        return CpuTimes(machine.now, floor(machine.idle_s * 100) / 100, self.ours_s, running)


def test_idle_cores_are_taken_at_once_when_nobody_runs() -> None:
    worker = Worker(Machine(4), least=1, most=3)
    assert worker.threads.adjust() == 3
    assert torch.get_num_threads() == 3


def test_threads_that_run_for_an_instant_are_taken_for_nobody_soon() -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.num_fleeting = 3
    assert worker.threads.adjust() == 1, "somebody runs"
    machine.work(A_MOMENT_S, worker)
    assert worker.threads.number == 2, "but used no time"
    assert machine.numbers(worker) == {2}


def test_a_little_work_of_others_is_no_reason_to_leave_them_a_core() -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.others = 0.1
    for _ in range(50):
        machine.work(LAYER_S, worker)
        assert worker.threads.adjust() == 2


@pytest.mark.parametrize("num_wanted", [1, 2])
def test_cores_that_others_want_are_given_back_within_a_moment(num_wanted: int) -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.work(1, worker)
    assert worker.threads.number == 2
    machine.others = num_wanted
    machine.work(A_MOMENT_S, worker)
    assert worker.threads.number == torch.get_num_threads() == 1
    assert machine.numbers(worker) == {1}, "and not taken again"
    machine.others = 0
    machine.work(A_MOMENT_S, worker)
    assert worker.threads.number == 2


def test_most_of_a_core_is_left_to_others() -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.others = 0.9
    assert machine.numbers(worker) == {1}


def test_of_many_cores_those_are_taken_that_are_left() -> None:
    machine = Machine(8)
    worker = Worker(machine, least=2, most=8)
    machine.others = 3
    machine.work(A_MOMENT_S, worker)
    assert worker.threads.number == 5
    machine.others = 7
    machine.work(2 * A_MOMENT_S, worker)
    assert worker.threads.number == 2


def test_two_workers_share_the_cores_while_both_compute() -> None:
    machine = Machine()
    one, two = Worker(machine), Worker(machine)
    machine.work(A_MOMENT_S, one)
    assert one.threads.number == 2
    machine.work(3 * A_MOMENT_S, one, two)
    assert machine.numbers(one, two) == {1}
    machine.work(A_MOMENT_S, two)
    assert two.threads.number == 2


def test_what_others_did_between_two_steps_does_not_count_when_nobody_runs() -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.work(A_MOMENT_S, worker)
    machine.others = 1
    machine.run(3)
    machine.others = 0
    worker.threads.number = 1
    assert worker.threads.adjust() == 2
    machine.num_fleeting = 3
    for _ in range(10):
        machine.work(LAYER_S, worker)
        assert worker.threads.number == 2, "a glance takes nothing back"


def test_who_waits_while_others_compute_begins_with_its_share() -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.work(A_MOMENT_S, worker)
    machine.others = 1
    machine.run(3)
    assert machine.numbers(worker) == {1}


def test_in_long_layers_nobody_running_for_an_instant_is_no_reason_to_take_cores() -> None:
    machine = Machine()
    worker = Worker(machine)
    machine.work(A_MOMENT_S, worker)
    machine.others, machine.num_fleeting = 1, -1
    worker.threads.adjust()
    machine.run(0.2, worker)
    for _ in range(10):
        assert worker.threads.adjust() == 1
        machine.run(0.2, worker)


def test_thin_layers_look_once_in_a_while() -> None:
    machine = Machine()
    worker = Worker(machine)
    for _ in range(1000):
        worker.threads.adjust()
        machine.run(0.0001, worker)
    assert worker.num_looks <= 20


def test_a_step_that_is_too_small_for_more_has_our_share_alone() -> None:
    worker = Worker(Machine(4), least=2, most=4)
    worker.threads.adjust()
    assert worker.threads.settle() == worker.threads.number == torch.get_num_threads() == 2


def test_without_a_most_nothing_changes_and_nobody_looks() -> None:
    worker = Worker(Machine(), least=2, most=None)
    assert not worker.threads.may_grow
    assert worker.threads.adjust() == 2
    assert worker.num_looks == 0


def test_where_the_system_tells_nothing_it_is_asked_once() -> None:
    asked: list[None] = []
    threads = Threads(1, 2, Cores(2, 2), read=lambda: asked.append(None))
    assert [threads.adjust() for _ in range(3)] == [1, 1, 1]
    assert len(asked) == 1


def test_linux_tells_of_this_process() -> None:
    before, after = read_cores(), read_cores()
    assert before is not None
    assert after is not None
    assert before.num_running >= 1
    assert after.at > before.at
    assert after.ours_s > before.ours_s
    assert after.idle_s >= before.idle_s


@pytest.mark.parametrize(
    ("files", "limited"),
    [
        ({"cpu.max": "100000 100000\n"}, True),
        ({"cpu.max": "50000 100000\n"}, True),
        ({"cpu.max": "max 100000\n"}, False),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, True),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, False),
        ({}, False),
    ],
)
def test_a_container_has_as_many_cores_as_its_quota(
    files: dict[str, str], limited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 5, 7})
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert count_cores(tmp_path) == (1 if limited else 4)
