"""Cached blocks are copied to another worker's cache, for a sequence that is still to come."""

from __future__ import annotations

import pytest

from kv_transfer.hashing import block_hashes
from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, expected
from wire.identity import AttemptId
from wire.messages import CopyPrefix, Handed, Kept

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))
COPY = AttemptId("copy")


def share(bench: Bench, tokens: list[int]) -> None:
    message = CopyPrefix(attempt_id=COPY, tokens=tuple(tokens), destination=bench.decode.address)
    bench.prefill.loop.attempts.copy_prefix("router", message)


def a_bench_that_has_computed(prompt: list[int], **sizes: int) -> Bench:
    bench = Bench(**sizes)
    bench.submit("before", prompt, alone=True)
    bench.run()
    return bench


def test_a_copied_prefix_is_found_by_the_next_prompt() -> None:
    bench = a_bench_that_has_computed(PROMPT)
    share(bench, [*PROMPT, 99])
    bench.run()
    (handed,) = bench.told(Handed)
    assert isinstance(handed, Handed)
    assert (handed.attempt_id, handed.moved.num_blocks) == (COPY, 5)
    assert bench.decode.pool.num_cached == 5
    bench.check_nothing_is_held()
    attempt_id = bench.submit("next", PROMPT)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()


def a_bench_whose_prefill_has_in_host_memory(prompt: list[int]) -> Bench:
    bench = a_bench_that_has_computed(prompt, num_blocks=8, decode_blocks=16, host_blocks=50)
    for number in range(3):
        others = range(100 * number + 100, 100 * number + 120)
        bench.submit(f"other {number}", list(others), alone=True)
        bench.run()
    assert bench.prefill.pool.match_prefix(block_hashes(prompt, 4)) < 5
    return bench


def test_what_is_in_host_memory_only_is_copied_too() -> None:
    bench = a_bench_whose_prefill_has_in_host_memory(PROMPT)
    share(bench, [*PROMPT, 99])
    bench.run()
    (handed,) = bench.told(Handed)
    assert isinstance(handed, Handed)
    assert (handed.attempt_id, handed.moved.num_blocks) == (COPY, 5)
    bench.check_nothing_is_held()
    attempt_id = bench.submit("next", PROMPT)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()


def test_a_copy_that_is_cancelled_while_it_comes_from_host_memory_leaves_nothing_behind() -> None:
    bench = a_bench_whose_prefill_has_in_host_memory(PROMPT)
    share(bench, PROMPT)
    bench.cancel(COPY)
    bench.run()
    assert not bench.told(Handed)
    bench.check_nothing_is_held()


def test_blocks_of_another_size_are_copied_as_far_as_they_fill_blocks_there() -> None:
    bench = a_bench_that_has_computed(PROMPT, decode_block_size=8)
    share(bench, PROMPT)
    bench.run()
    assert len(bench.told(Handed)) == 1
    assert len(bench.decode.pool.cached_hashes()) == 2
    bench.check_nothing_is_held()


def test_what_is_there_already_does_not_travel() -> None:
    bench = a_bench_that_has_computed(PROMPT)
    share(bench, PROMPT[:8])
    bench.run()
    message = CopyPrefix(
        attempt_id=AttemptId("again"), tokens=tuple(PROMPT), destination=bench.decode.address
    )
    bench.prefill.loop.attempts.copy_prefix("router", message)
    bench.run()
    moved = [handed.moved for handed in bench.told(Handed) if isinstance(handed, Handed)]
    assert [(each.num_blocks, each.skipped_blocks) for each in moved] == [(2, 0), (3, 2)]


def test_what_is_not_cached_is_not_shared() -> None:
    bench = Bench()
    share(bench, PROMPT)
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert "cached" in kept.cause
    bench.check_nothing_is_held()


def test_a_copy_that_is_cancelled_or_loses_its_link_leaves_nothing_behind() -> None:
    for breaks in (False, True):
        bench = a_bench_that_has_computed(PROMPT)
        share(bench, PROMPT)
        bench.fabric.stall()
        bench.run(3)
        if breaks:
            bench.break_link()
        else:
            bench.cancel(COPY)
        bench.fabric.resume()
        bench.run()
        assert not bench.told(Handed)
        assert bench.decode.pool.num_cached == 0
        bench.check_nothing_is_held()


def test_a_flipped_bit_never_enters_a_prefix_cache() -> None:
    bench = a_bench_that_has_computed(PROMPT)
    bench.fabric.flip_bits = 1
    share(bench, PROMPT)
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert "checksum" in kept.cause
    assert bench.decode.pool.num_cached == 0
    bench.check_nothing_is_held()
