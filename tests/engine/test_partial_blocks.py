"""Sequences that begin alike share blocks, and of the last one a part."""

from __future__ import annotations

import pytest

from engine.cache.block_pool import BlockPool
from engine.cache.partial_blocks import MAX_PARTIAL_BLOCKS, MAX_PER_PREFIX, PartialBlocks
from engine.sequence import Sequence
from tests.engine.tiers import Tiered, answer, expected
from wire.identity import AttemptId
from wire.sampling import SamplingParams
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick


def roomy() -> Tiered:
    return Tiered(num_blocks=64, num_host_blocks=8)


def test_branches_of_a_running_sequence_compute_one_token_each() -> None:
    for length in range(6, 14):
        tiered, prompt = roomy(), list(range(length))
        tiered.add("first", prompt, max_tokens=9)
        tiered.step()
        branches = [tiered.add(str(n), prompt) for n in range(3)]
        tiered.step()
        assert [branch.num_cached for branch in branches] == [length - 1] * 3
        tiered.finish()
        assert [answer(branch) for branch in branches] == [expected(prompt, 4)] * 3


def test_a_prompt_that_is_repeated_later_computes_one_token() -> None:
    for length in range(6, 14):
        for max_tokens in (1, 2, 6):
            tiered, prompt = roomy(), list(range(length))
            tiered.run("first", prompt, max_tokens)
            assert tiered.run("second", prompt).num_cached == length - 1


def test_who_goes_on_from_an_answer_computes_what_is_new() -> None:
    tiered, prompt = roomy(), list(range(9))
    first = tiered.run("first", prompt, max_tokens=6)
    assert tiered.run("second", [*first.tokens, 7, 8]).num_cached == 14


def test_sequences_that_part_inside_a_block_share_what_comes_before() -> None:
    tiered = roomy()
    tiered.add("first", list(range(11)), max_tokens=9)
    tiered.step()
    second = tiered.add("second", [0, 1, 2, 3, 4, 5, 6, 99, 98])
    tiered.finish()
    assert second.num_cached == 7
    assert answer(second) == expected([0, 1, 2, 3, 4, 5, 6, 99, 98], 4)


def test_the_one_that_is_copied_goes_on_undisturbed() -> None:
    tiered, prompt = roomy(), list(range(6))
    first = tiered.add("first", prompt, max_tokens=20)
    for number in range(5):
        tiered.step()
        tiered.add(str(number), [*first.tokens, 1000 + number], max_tokens=3)
    tiered.finish()
    assert answer(first) == expected(prompt, 20)


def test_tenants_with_different_salts_share_no_part_of_a_block() -> None:
    tiered, prompt = roomy(), list(range(7))
    tiered.run("first", prompt)
    sampling = SamplingParams(max_tokens=4)
    other = Sequence(
        AttemptId("other"), prompt, sampling, traits=RequestTraits(cache_salt=b"other")
    )
    tiered.engine.add(other)
    tiered.finish()
    assert other.num_cached == 0


def test_partial_blocks_are_no_cache_events() -> None:
    tiered = roomy()
    tiered.run("first", list(range(6)), max_tokens=1)
    stored, _ = tiered.pool.take_events()
    assert stored == tiered.pool.cached_hashes()
    assert len(stored) == 1
    assert tiered.pool.num_cached == 2


def test_a_partial_block_that_was_evicted_is_not_found() -> None:
    tiered = Tiered(num_blocks=4, num_host_blocks=1)
    tiered.run("first", list(range(6)), max_tokens=1)
    tiered.run("filler", list(range(100, 115)), max_tokens=1)
    assert tiered.run("second", list(range(6)), max_tokens=1).num_cached == 0


def test_the_index_of_partial_blocks_is_bounded() -> None:
    pool = BlockPool(4 * MAX_PARTIAL_BLOCKS)
    partial = PartialBlocks(pool, block_size=4)
    for number in range(2 * MAX_PARTIAL_BLOCKS):
        sequence = a_computed_sequence(pool, [number % (MAX_PARTIAL_BLOCKS // 2), number])
        partial.keep(sequence)
        pool.release(sequence.blocks)
    assert partial.num_blocks <= MAX_PARTIAL_BLOCKS
    for number in range(2 * MAX_PARTIAL_BLOCKS):
        sequence = a_computed_sequence(pool, [7, number])
        sequence.traits = RequestTraits(cache_salt=b"one prefix")
        partial.keep(sequence)
        pool.release(sequence.blocks)
    new = Sequence(
        AttemptId("new"),
        [7, 1, 2],
        SamplingParams(max_tokens=1),
        traits=RequestTraits(cache_salt=b"one prefix"),
    )
    assert partial.num_blocks <= MAX_PARTIAL_BLOCKS
    assert partial.num_behind(new) == MAX_PER_PREFIX


def a_computed_sequence(pool: BlockPool, tokens: list[int]) -> Sequence:
    sequence = Sequence(AttemptId("any"), tokens, SamplingParams(max_tokens=1))
    blocks = pool.try_allocate(1)
    assert blocks is not None
    sequence.blocks, sequence.num_computed = blocks, len(tokens)
    return sequence
