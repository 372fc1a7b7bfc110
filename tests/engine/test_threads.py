"""A wide step takes cores that nobody else wants, and gives them back."""

from collections.abc import Iterator

import pytest
import torch

from engine.threads import Threads, num_runnable


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """Of four cores, on which so many threads beside ours run."""

    def __init__(self, least: int, most: int | None) -> None:
        self.num_others = 0
        self.threads = Threads(least, most, self.count, num_cores=4)

    def count(self) -> int:
        return self.num_others + self.threads.number


def test_idle_cores_are_taken_up_to_the_most() -> None:
    machine = Machine(1, 3)
    assert machine.threads.adjust() == 3
    assert torch.get_num_threads() == 3


def test_cores_that_others_want_are_left_to_them() -> None:
    machine = Machine(1, 4)
    machine.threads.adjust()
    machine.num_others = 2
    assert machine.threads.adjust() == 2
    machine.num_others = 9
    assert machine.threads.adjust() == 1
    machine.num_others = 0
    assert machine.threads.adjust() == 4


def test_after_the_step_only_our_share_is_used() -> None:
    machine = Machine(2, 4)
    machine.threads.adjust()
    assert machine.threads.settle() == torch.get_num_threads() == 2


def test_without_a_most_nothing_changes_and_nobody_looks() -> None:
    def look() -> int:
        raise AssertionError

    assert Threads(2, None, look, num_cores=4).adjust() == 2


def test_this_thread_is_runnable() -> None:
    assert num_runnable() >= 1
