"""Blocks go between two memories, in the order in which they were told to, beside everything."""

from __future__ import annotations

import time

import numpy as np
import pytest

from engine.cache.block_copier import Copied, Copy, HostCopier, allocate_host, rows_of

pytestmark = pytest.mark.quick

BLOCK_BYTES = 32


def a_copier() -> tuple[HostCopier, np.ndarray, np.ndarray]:
    cache, host = allocate_host(8 * BLOCK_BYTES), allocate_host(4 * BLOCK_BYTES)
    rows = rows_of(cache, BLOCK_BYTES)
    rows[:] = np.arange(8)[:, None]
    return HostCopier(cache, host, BLOCK_BYTES), rows, rows_of(host, BLOCK_BYTES)


def wait_for(copier: HostCopier, count: int) -> list[Copied]:
    copied: list[Copied] = []
    deadline = time.monotonic() + 60
    while len(copied) < count:
        assert time.monotonic() < deadline
        copied += copier.take_copied()
    return copied


def test_a_thread_copies_down_and_up_in_order() -> None:
    copier, cache, host = a_copier()
    copier.start_thread()
    copier.start(Copy(1, (2, 3, 7), (1, 2, 0), up=False))
    copier.start(Copy(2, (0, 5), (0, 2), up=True))
    assert [copied.number for copied in wait_for(copier, 2)] == [1, 2]
    copier.close()
    assert host[:3, 0].tolist() == [7, 2, 3]
    assert cache[:, -1].tolist() == [7, 1, 2, 3, 4, 3, 6, 7]


def test_by_hand_nothing_is_copied_before_its_turn() -> None:
    copier, _, host = a_copier()
    copier.start(Copy(1, (2,), (1,), up=False))
    assert not copier.take_copied()
    assert host[1, 0] == 0
    assert copier.turn()
    assert not copier.turn()
    assert host[1, 0] == 2
    assert len(copier.take_copied()) == 1


def test_a_copy_that_fails_is_raised_where_the_engine_asks() -> None:
    copier, _, _ = a_copier()
    copier.start_thread()
    copier.start(Copy(1, (7, 8), (0, 1), up=False))  # there is no block 8
    with pytest.raises(ValueError, match="broadcast"):
        wait_for(copier, 1)
    copier.close()
