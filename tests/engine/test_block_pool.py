import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.cache.block_pool import BlockPool

pytestmark = pytest.mark.quick


def test_allocating_more_than_is_free_takes_nothing() -> None:
    pool = BlockPool(4)
    assert pool.try_allocate(5) is None
    assert pool.num_free == 4


def test_runs_of_blank_blocks_are_neighbours() -> None:
    pool = BlockPool(8)
    first = pool.try_allocate(4)
    assert first == [0, 1, 2, 3]
    pool.release(first)
    assert pool.try_allocate(3) == [0, 1, 2]


def a_pool_with_cached(hashes: list[bytes]) -> BlockPool:
    pool = BlockPool(4)
    blocks = pool.try_allocate(len(hashes))
    assert blocks is not None
    for block, block_hash in zip(blocks, hashes, strict=True):
        pool.publish(block, block_hash)
    pool.release(blocks)
    return pool


def test_a_released_prefix_is_found_again() -> None:
    pool = a_pool_with_cached([b"a", b"b"])
    assert pool.acquire_prefix([b"a", b"b", b"c"]) == [0, 1]
    assert pool.num_free == 2


def test_a_prefix_ends_at_the_first_hash_that_is_missing() -> None:
    pool = a_pool_with_cached([b"a", b"b"])
    assert pool.match_prefix([b"a", b"x", b"b"]) == 1


def test_blank_blocks_are_used_before_cached_ones() -> None:
    pool = a_pool_with_cached([b"a", b"b"])
    assert pool.try_allocate(2) == [2, 3]
    assert pool.num_cached == 2


def test_the_tail_of_a_prefix_is_evicted_before_its_head() -> None:
    pool = a_pool_with_cached([b"a", b"b"])
    assert pool.take_events() == ([b"a", b"b"], [])
    pool.try_allocate(3)
    assert pool.take_events() == ([], [b"b"])
    assert pool.match_prefix([b"a", b"b"]) == 1


def test_a_name_that_comes_and_goes_between_two_looks_is_no_event() -> None:
    pool = a_pool_with_cached([b"a", b"b"])
    pool.try_allocate(3)
    assert pool.take_events() == ([b"a"], [])


def test_the_prefix_used_longest_ago_is_evicted_first() -> None:
    pool = a_pool_with_cached([b"a"])
    blocks = pool.try_allocate(1)
    assert blocks is not None
    pool.publish(blocks[0], b"b")
    pool.release(blocks)
    pool.release(pool.acquire_prefix([b"a"]))
    pool.try_allocate(3)
    assert pool.match_prefix([b"a"]) == 1
    assert pool.match_prefix([b"b"]) == 0


def use_once(pool: BlockPool, name: bytes) -> None:
    """A prompt of one block that nobody repeats."""
    blocks = pool.try_allocate(1)
    assert blocks is not None
    pool.publish(blocks[0], name)
    pool.release(blocks)


def test_a_prefix_that_many_share_outlives_prompts_that_nobody_repeats() -> None:
    pool = a_pool_with_cached([b"a"])
    for _ in range(3):
        shared = pool.acquire_prefix([b"a"])
        pool.note_hits(shared)
        pool.release(shared)
    for number in range(12):
        use_once(pool, b"%d" % number)
    assert pool.match_prefix([b"a"]) == 1


def test_a_prefix_that_fell_out_of_use_is_evicted_at_last() -> None:
    pool = a_pool_with_cached([b"a"])
    shared = pool.acquire_prefix([b"a"])
    pool.note_hits(shared)
    pool.release(shared)
    for number in range(12):
        use_once(pool, b"%d" % number)
    assert pool.match_prefix([b"a"]) == 0


def test_a_prefix_that_is_used_again_and_again_costs_no_memory() -> None:
    pool = a_pool_with_cached([b"a", b"b"])
    for _ in range(1000):
        pool.release(pool.acquire_prefix([b"a", b"b"]))
    assert len(pool._queue) <= 2 * pool.num_blocks


def test_a_second_block_of_the_same_content_stays_without_a_name() -> None:
    pool = BlockPool(2)
    blocks = pool.try_allocate(2)
    assert blocks is not None
    for block in blocks:
        pool.publish(block, b"a")
    pool.release(blocks)
    pool.check_integrity()
    assert pool.num_cached == 1


def test_releasing_twice_is_an_error_of_ours() -> None:
    pool = BlockPool(1)
    blocks = pool.try_allocate(1)
    assert blocks is not None
    pool.release(blocks)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)


class PoolMachine(RuleBasedStateMachine):
    """Any order of allocating, sharing, naming and releasing keeps the books right."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12)
        self.owned: list[list[int]] = []

    @rule(count=st.integers(0, 8))
    def allocate(self, count: int) -> None:
        fits = count <= self.pool.num_free
        blocks = self.pool.try_allocate(count)
        assert (blocks is not None) == fits
        if blocks is not None:
            assert not {b for owned in self.owned for b in owned} & set(blocks)
            self.owned.append(blocks)

    @rule(hashes=st.lists(st.sampled_from([bytes([n]) for n in range(6)]), max_size=6))
    def share(self, hashes: list[bytes]) -> None:
        self.owned.append(self.pool.acquire_prefix(hashes))

    @rule(data=st.data(), name=st.integers(0, 5))
    def publish(self, data: st.DataObject, name: int) -> None:
        blocks = [block for owned in self.owned for block in owned]
        if blocks:
            self.pool.publish(data.draw(st.sampled_from(blocks)), bytes([name]))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.owned:
            index = data.draw(st.integers(0, len(self.owned) - 1))
            self.pool.release(self.owned.pop(index))

    @invariant()
    def the_books_are_right(self) -> None:
        self.pool.check_integrity()
        used = {block for owned in self.owned for block in owned}
        assert self.pool.num_free == self.pool.num_blocks - len(used)


TestPoolMachine = PoolMachine.TestCase
