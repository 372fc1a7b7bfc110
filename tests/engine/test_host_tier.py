"""Host memory behind the cache, on the runner whose tokens prove what its blocks hold."""

from __future__ import annotations

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.cache.offload import Offload
from engine.sequence import Sequence, Status
from tests.engine.tiers import Tiered, answer, expected, learn

pytestmark = pytest.mark.quick

PROMPT = list(range(17))


def prompts(count: int, length: int = 17) -> list[list[int]]:
    return [list(range(100 * n, 100 * n + length)) for n in range(1, count + 1)]


def fill(tiered: Tiered, count: int = 4) -> None:
    """Prompts that nobody repeats push others out of the cache."""
    for number, prompt in enumerate(prompts(count)):
        tiered.run(f"filler {number}", prompt)


def test_a_prefix_that_left_the_cache_comes_back_from_host_memory() -> None:
    tiered = Tiered(num_blocks=8, num_host_blocks=64)
    tiered.run("first", PROMPT)
    fill(tiered)
    assert tiered.pool.match_prefix(tiered.add("x", PROMPT).update_hashes(4)) == 0
    tiered.finish()
    assert tiered.run("again", PROMPT).num_cached >= 16


def test_of_a_prompt_of_whole_blocks_in_host_memory_one_token_is_computed() -> None:
    tiered, prompt = Tiered(num_blocks=8, num_host_blocks=64), list(range(16))
    tiered.run("first", prompt)
    fill(tiered)
    assert tiered.run("again", prompt).num_cached == 15


def test_without_pressure_nothing_is_copied() -> None:
    tiered = Tiered(num_blocks=64, num_host_blocks=64)
    tiered.run("first", PROMPT)
    assert tiered.tier.pool.num_cached == 0


def test_blocks_are_saved_before_they_are_evicted_and_never_again() -> None:
    tiered = Tiered(num_blocks=8, num_host_blocks=64)
    sequence = tiered.run("first", [*PROMPT, *range(50, 60)])
    assert tiered.pool.match_prefix(sequence.hashes) == 7
    assert tiered.tier.pool.match_prefix(sequence.hashes) == 7
    tiered.tier.pool.take_events()
    tiered.run("again", [*PROMPT, *range(50, 60)])
    assert tiered.tier.pool.take_events() == ([], [])


def test_a_block_that_is_being_saved_is_not_overwritten() -> None:
    tiered = Tiered(num_blocks=8, num_host_blocks=64)
    tiered.add("first", [*PROMPT, *range(50, 60)], max_tokens=1)
    tiered.step(2)
    assert tiered.tier.busy
    hungry = tiered.add("hungry", list(range(500, 531)), max_tokens=1)
    tiered.step(3)
    assert hungry.status is Status.WAITING
    tiered.finish()
    assert answer(hungry) == expected(list(range(500, 531)), 1)


def test_who_waits_for_blocks_holds_nobody_up() -> None:
    tiered = Tiered(num_blocks=16, num_host_blocks=64)
    tiered.run("first", PROMPT)
    fill(tiered)
    loading, other = tiered.add("again", PROMPT), tiered.add("other", [7, 8, 9])
    tiered.step(4)
    assert loading.status is Status.LOADING
    assert answer(other) == expected([7, 8, 9], 4)
    tiered.finish()
    assert answer(loading) == expected(PROMPT, 4)
    assert loading.num_cached == 16


def test_a_load_that_does_not_come_is_computed() -> None:
    tiered = Tiered(num_blocks=16, num_host_blocks=64)
    tiered.run("first", PROMPT)
    fill(tiered)
    sequence = tiered.add("again", PROMPT)
    tiered.step()
    tiered.now += 60
    tiered.step(4)
    assert answer(sequence) == expected(PROMPT, 4)
    assert sequence.num_cached == 0
    tiered.finish()


def test_dropping_who_waits_for_blocks_gives_them_back_when_they_are_copied() -> None:
    tiered = Tiered(num_blocks=16, num_host_blocks=64)
    tiered.run("first", PROMPT)
    fill(tiered)
    sequence = tiered.add("again", PROMPT)
    tiered.step()
    tiered.engine.drop(sequence)
    assert tiered.pool.used_blocks()
    tiered.finish()


def test_host_memory_evicts_too_and_tells_it() -> None:
    tiered = Tiered(num_blocks=8, num_host_blocks=8)
    fill(tiered, count=2)
    stored, removed = tiered.tier.pool.take_events()
    assert stored
    assert not removed
    fill(tiered, count=6)
    stored, removed = tiered.tier.pool.take_events()
    assert set(removed).isdisjoint(tiered.tier.pool.cached_hashes())
    assert removed


def test_a_shared_prefix_outlives_prompts_that_nobody_repeats_in_host_memory() -> None:
    tiered = Tiered(num_blocks=8, num_host_blocks=16)
    for number in range(4):
        tiered.run(f"shared {number}", PROMPT)
    fill(tiered, count=6)
    assert tiered.pool.match_prefix(tiered.add("x", PROMPT).update_hashes(4)) == 0
    tiered.finish()
    assert tiered.run("again", PROMPT).num_cached == 16


def crowd(tiered: Tiered, count: int = 5, max_tokens: int = 25) -> list[Sequence]:
    return [tiered.add(str(n), [n, n + 1, n + 2], max_tokens) for n in range(count)]


def test_swapped_sequences_go_on_where_they_were() -> None:
    tiered = Tiered(16, 64, DecodePolicy(headroom_blocks=0))
    sequences, computed = crowd(tiered), 0
    while tiered.engine.busy:
        tiered.copy()
        tiered.engine.step()
        computed += sum(piece.count for piece in tiered.engine.completed_slices)
        tiered.engine.memory.check_integrity()
    assert tiered.engine.num_preemptions > 0
    assert [answer(s) for s in sequences] == [expected(s.tokens[:3], 25) for s in sequences]
    assert computed == sum(len(s.tokens) - 1 for s in sequences), "something was computed twice"


def test_what_is_computed_sooner_than_copied_is_not_swapped() -> None:
    tiered = Tiered(16, 64, DecodePolicy(headroom_blocks=0))
    learn(tiered, seconds_per_token=1e-6)
    tiered.tier.costs.observe_copy(num_bytes=1, seconds=1.0)
    sequences = crowd(tiered)
    while tiered.engine.num_preemptions == 0:
        tiered.step()
    assert not tiered.tier.pool.used_blocks() - {
        slot for save in tiered.tier._saves for slot in save.host_blocks
    }
    tiered.finish()
    assert [answer(s) for s in sequences] == [expected(s.tokens[:3], 25) for s in sequences]


def test_what_is_copied_sooner_than_computed_is_swapped() -> None:
    tiered = Tiered(16, 64, DecodePolicy(headroom_blocks=0))
    learn(tiered, seconds_per_token=1.0)
    tiered.tier.costs.observe_copy(num_bytes=1 << 30, seconds=1.0)
    crowd(tiered)
    while tiered.engine.num_preemptions == 0:
        tiered.step()
    assert tiered.tier.num_leaving > 0
    tiered.finish()


def test_with_no_room_in_host_memory_sequences_are_computed_again() -> None:
    tiered = Tiered(16, 1, DecodePolicy(headroom_blocks=0))
    sequences = crowd(tiered)
    tiered.finish()
    assert tiered.engine.num_preemptions > 0
    assert [answer(s) for s in sequences] == [expected(s.tokens[:3], 25) for s in sequences]


def test_dropping_a_swapped_sequence_gives_its_host_blocks_back() -> None:
    for copied in (False, True):
        tiered = Tiered(16, 64, DecodePolicy(headroom_blocks=0))
        sequences = crowd(tiered)
        while tiered.engine.num_preemptions == 0:
            tiered.step()
        if copied:
            tiered.copy()
            tiered.tier.poll()
        for sequence in sequences:
            tiered.engine.drop(sequence)
        tiered.finish()


def test_with_no_room_in_host_memory_what_fell_out_of_use_is_not_remembered_for_ever() -> None:
    cache, host = BlockPool(8), BlockPool(4)
    saving = Offload(cache, host)
    assert host.try_allocate(4) is not None
    for number in range(100):
        blocks = cache.try_allocate(8)
        assert blocks is not None
        for block in blocks:
            cache.publish(block, bytes([number, block]))
        cache.release(blocks)
        assert saving.try_begin() is None
    assert len(saving._unsaved) <= 2 * cache.num_blocks
