"""What the router believes of its workers' caches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.placing.prefix_index import MOST_ENDS, STRIDE, PrefixIndex, depths
from wire.identity import WorkerRef
from wire.reports import CacheEvents

pytestmark = pytest.mark.quick

A, B = WorkerRef("a", 1), WorkerRef("b", 1)
BLOCKS = [bytes([i]) * 16 for i in range(8)]
ROWS = {"a": 0, "b": 9}


def hits(index: PrefixIndex, hashes: Sequence[bytes], tier: int = 0) -> dict[WorkerRef, int]:
    """Of those that have any."""
    counts = index.num_hits(hashes, num_rows=16)[tier]
    found = {ref: int(counts[ROWS[ref.worker_id]]) for ref in (A, B)}
    return {ref: count for ref, count in found.items() if count}


def index_of(*refs: WorkerRef, max_entries: int = 1000) -> PrefixIndex:
    index = PrefixIndex(max_entries)
    for ref in refs:
        index.add(ref, ROWS[ref.worker_id])
        assert index.apply(ref, CacheEvents(number=0, snapshot=True))
    return index


def test_hits_count_leading_blocks_for_each_worker() -> None:
    index = index_of(A, B)
    index.apply(A, CacheEvents(number=1, stored=tuple(BLOCKS[:3])))
    index.apply(B, CacheEvents(number=1, stored=(BLOCKS[0], BLOCKS[2])))
    assert hits(index, BLOCKS[:5]) == {A: 3, B: 1}
    assert hits(index, BLOCKS[3:]) == {}
    assert hits(index, []) == {}


def test_removed_blocks_are_no_hits() -> None:
    index = index_of(A)
    index.apply(A, CacheEvents(number=1, stored=tuple(BLOCKS[:3])))
    index.apply(A, CacheEvents(number=2, removed=(BLOCKS[1],)))
    assert hits(index, BLOCKS[:3]) == {A: 1}


def test_a_gap_asks_for_a_snapshot_once_and_the_snapshot_replaces_everything() -> None:
    index = index_of(A)
    assert index.apply(A, CacheEvents(number=1, stored=(BLOCKS[0],)))
    assert not index.apply(A, CacheEvents(number=3, stored=(BLOCKS[1],)))
    assert index.apply(A, CacheEvents(number=4, stored=(BLOCKS[2],))), "asked for already"
    assert index.apply(A, CacheEvents(number=7, stored=(BLOCKS[3],), snapshot=True))
    assert hits(index, BLOCKS[3:]) == {A: 1}
    assert hits(index, BLOCKS[:1]) == {}
    assert index.apply(A, CacheEvents(number=8, stored=(BLOCKS[4],)))
    assert hits(index, BLOCKS[3:5]) == {A: 2}


def test_events_before_the_first_snapshot_are_ignored() -> None:
    index = PrefixIndex(10)
    index.add(A, 0)
    assert index.apply(A, CacheEvents(number=5, stored=(BLOCKS[0],)))
    assert hits(index, BLOCKS) == {}


def test_a_dead_incarnation_leaves_nothing() -> None:
    index = index_of(A, B)
    for ref in (A, B):
        index.apply(ref, CacheEvents(number=1, stored=tuple(BLOCKS)))
    index.drop(A)
    assert hits(index, BLOCKS) == {B: 8}
    reborn = WorkerRef("a", 2)
    index.add(reborn, 1)
    assert index.apply(A, CacheEvents(number=2, stored=(BLOCKS[0],))), "strangers are ignored"
    assert hits(index, BLOCKS) == {B: 8}
    index.check_integrity()


def test_memory_is_bounded_and_the_oldest_is_forgotten() -> None:
    index = index_of(A, max_entries=4)
    index.apply(A, CacheEvents(number=1, stored=tuple(BLOCKS)))
    assert index.num_entries == 4
    assert hits(index, BLOCKS) == {}
    assert hits(index, BLOCKS[4:]) == {A: 4}


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 64, 65, 100, 1000, 1023, 1024])
def test_a_long_prefix_is_measured_to_the_block(depth: int) -> None:
    blocks = [i.to_bytes(16, "big") for i in range(1024)]
    index = index_of(A, B, max_entries=10_000)
    index.apply(A, CacheEvents(number=1, stored=tuple(blocks[:depth])))
    index.apply(B, CacheEvents(number=1, stored=tuple(blocks[:40])))
    assert hits(index, blocks) == {A: depth, B: 40}


def test_however_many_have_a_part_of_a_long_prompt_few_of_its_blocks_are_looked_up() -> None:
    blocks = [i.to_bytes(16, "big") for i in range(8192)]
    ends = [1 + 41 * row for row in range(200)]
    asked: list[bytes] = []

    def holders(block: bytes) -> int:
        asked.append(block)
        number = int.from_bytes(block, "big")
        return sum(1 << row for row, end in enumerate(ends) if number < end)

    told = dict(depths(holders, blocks))
    assert len(asked) < 400
    found = [next(it for mask, it in told.items() if mask >> row & 1) for row in range(200)]
    assert all(end - STRIDE < depth <= end for depth, end in zip(found, ends, strict=True))
    assert found[:MOST_ENDS] == ends[:MOST_ENDS]


def test_what_is_in_host_memory_continues_what_is_on_the_device() -> None:
    index = index_of(A, B)
    index.apply(A, CacheEvents(number=1, stored=(BLOCKS[0],), host_stored=(BLOCKS[1], BLOCKS[2])))
    index.apply(B, CacheEvents(number=1, host_stored=tuple(BLOCKS[:2])))
    assert hits(index, BLOCKS) == {A: 1}
    assert hits(index, BLOCKS, tier=1) == {A: 3, B: 2}
    index.apply(B, CacheEvents(number=2, host_removed=(BLOCKS[0],)))
    assert hits(index, BLOCKS, tier=1) == {A: 3}
    index.drop(A)
    assert index.num_entries == 1
    index.check_integrity()


blocks = st.lists(st.sampled_from(BLOCKS)).map(tuple)
events = st.tuples(
    st.sampled_from([A, B]),
    st.builds(
        CacheEvents,
        number=st.integers(1, 3),
        stored=blocks,
        removed=blocks,
        host_stored=blocks,
        host_removed=blocks,
        snapshot=st.booleans(),
    ),
)


@given(st.lists(st.one_of(events, st.sampled_from([A, B]))), st.integers(1, 9))
def test_no_history_breaks_the_index(history: list[object], max_entries: int) -> None:
    index = index_of(A, B, max_entries=max_entries)
    for each in history:
        if isinstance(each, WorkerRef):
            index.drop(each)
            index.add(each, ROWS[each.worker_id])
        else:
            index.apply(*each)
        index.check_integrity()
