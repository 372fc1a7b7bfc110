"""Frames: whatever their numbers say, nothing outside the pool is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.ucx import frames
from kv_transfer.transports.ucx.frames import (
    FRAME_BYTES,
    BadFrame,
    Bytes,
    number_of,
    pack,
    split_frames,
    unpack,
)

pytestmark = pytest.mark.quick

POOL_BYTES = 3 * FRAME_BYTES
WILD = st.sampled_from([0, 1, -1, POOL_BYTES, POOL_BYTES + 1, 2**62, 2**63 - 1, -(2**63)])


def travel(memory: Bytes, spans: Offsets) -> tuple[Bytes, int]:
    """A pool of zeros after spans of `memory` came in, and the number of frames."""
    pool = np.zeros(POOL_BYTES, np.uint8)
    sent, landing = np.empty((2, FRAME_BYTES), np.uint8)
    count = 0
    for part in split_frames(spans):
        packed = pack(count, memory, part, sent)
        landing[: len(packed)] = packed
        assert number_of(landing) == count
        unpack(landing, pool)
        count += 1
    return pool, count


def some_bytes(num_bytes: int) -> Bytes:
    return np.random.default_rng(1).integers(1, 256, num_bytes, np.uint8)


def test_a_span_longer_than_a_parcel_is_split() -> None:
    memory = some_bytes(POOL_BYTES)
    spans = np.array([[5, 1, POOL_BYTES - 5], [0, 0, 1]], np.int64)
    pool, count = travel(memory, spans)
    assert count == 4  # the numbers take room, too
    assert (pool[1:-4] == memory[5:]).all()
    assert (pool[0], *pool[-4:]) == (memory[0], 0, 0, 0, 0)


def test_many_small_spans_share_a_parcel() -> None:
    memory = some_bytes(4096)
    starts = np.arange(0, 4096, 4, dtype=np.int64)
    spans = np.stack([starts, 4096 - 4 - starts, np.full_like(starts, 4)], axis=1)
    pool, count = travel(memory, spans)
    assert count == 1
    assert (pool[:4096].reshape(-1, 4)[::-1] == memory.reshape(-1, 4)).all()


def test_no_spans_are_no_parcel() -> None:
    pool, count = travel(some_bytes(1), np.empty((0, 3), np.int64))
    assert count == 0
    assert not pool.any()


@given(rows=st.lists(st.tuples(WILD, WILD), min_size=1, max_size=4), num_spans=WILD)
def test_a_parcel_with_wild_numbers_lands_inside_or_nowhere(
    rows: list[tuple[int, int]], num_spans: int
) -> None:
    around = np.zeros(3 * POOL_BYTES, np.uint8)
    pool = around[POOL_BYTES : 2 * POOL_BYTES]
    landing = np.full(FRAME_BYTES, 7, np.uint8)
    table = np.array([(0, num_spans if num_spans > 1 else len(rows)), *rows], np.int64)
    landing[: table.nbytes] = table.view(np.uint8).ravel()
    try:
        unpack(landing, pool)
    except BadFrame:
        assert not pool.any()
    assert not around[:POOL_BYTES].any()
    assert not around[2 * POOL_BYTES :].any()


@pytest.mark.parametrize("row", [(0, FRAME_BYTES), (POOL_BYTES, 1), (-1, 1), (0, -1)])
def test_an_impossible_span_is_told(row: tuple[int, int]) -> None:
    landing = np.zeros(FRAME_BYTES, np.uint8)
    frames._rows(landing, 1)[:] = (0, 1), row
    with pytest.raises(BadFrame):
        unpack(landing, np.zeros(POOL_BYTES, np.uint8))
