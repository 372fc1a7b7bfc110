"""The ride of a request between two step loops whose KV blocks differ in size."""

from __future__ import annotations

from itertools import product

import pytest

from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, expected
from wire.messages import Handed, Kept

pytestmark = pytest.mark.quick

SIZES = (1, 2, 4, 8, 16)
PAIRS = list(product(SIZES, repeat=2))
UNEQUAL = [(2, 8), (8, 2), (4, 16), (16, 4)]
PROMPT = list(range(5, 26))  # 21 tokens: no whole number of blocks, unless they are of one

every_pair = pytest.mark.parametrize(("block_size", "remote_block_size"), PAIRS)
some_pairs = pytest.mark.parametrize(("block_size", "remote_block_size"), UNEQUAL)


def a_bench(
    block_size: int, remote_block_size: int, num_tokens: int = 2048, **fields: int
) -> Bench:
    """Room for `num_tokens` tokens on both sides."""
    return Bench(
        num_blocks=num_tokens // block_size,
        decode_blocks=num_tokens // remote_block_size,
        prefill_block_size=block_size,
        decode_block_size=remote_block_size,
        **fields,
    )


@every_pair
def test_prompts_of_every_length_get_the_tokens_they_should(
    block_size: int, remote_block_size: int
) -> None:
    bench = a_bench(block_size, remote_block_size, chunk_tokens=12)
    prompts = [[7 * i + j for j in range(i + 1)] for i in range(36)]
    attempts = [bench.submit(f"r{i}", prompt, max_tokens=20) for i, prompt in enumerate(prompts)]
    bench.run()
    for attempt_id, prompt in zip(attempts, prompts, strict=True):
        assert bench.tokens(attempt_id) == expected(prompt, [P] + 19 * [D])
    assert len(bench.told(Handed)) == len(prompts)
    bench.check_nothing_is_held()


@every_pair
def test_blocks_are_counted_as_the_destination_has_them(
    block_size: int, remote_block_size: int
) -> None:
    bench = a_bench(block_size, remote_block_size)
    bench.submit("a", PROMPT)
    bench.run()
    (handed,) = bench.told(Handed)
    assert isinstance(handed, Handed)
    layout = bench.decode.runner.layout
    assert handed.moved.num_blocks == layout.num_blocks(len(PROMPT))
    assert handed.moved.num_bytes == layout.num_blocks(len(PROMPT)) * layout.block_bytes


@every_pair
def test_one_flipped_bit_is_caught(block_size: int, remote_block_size: int) -> None:
    bench = a_bench(block_size, remote_block_size)
    attempt_id = bench.submit("a", PROMPT)
    bench.fabric.flip_bits = 1
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert kept.cause.startswith("rejected: checksum")
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


@pytest.mark.parametrize("num_common", [3, 16, 20])
@every_pair
def test_a_prefix_that_is_there_stays_there_in_whole_blocks_of_both(
    block_size: int, remote_block_size: int, num_common: int
) -> None:
    bench = a_bench(block_size, remote_block_size)
    bench.submit("a", PROMPT)
    bench.run()
    prompt = [*PROMPT[:num_common], *range(900, 911)]
    attempt_id = bench.submit("b", prompt)
    bench.run()
    handed = bench.told(Handed)[-1]
    assert isinstance(handed, Handed)
    unit = max(block_size, remote_block_size)
    skipped = num_common // unit * unit // remote_block_size
    num_remote_blocks = bench.decode.runner.layout.num_blocks(len(prompt))
    assert handed.moved.skipped_blocks == skipped
    assert handed.moved.num_blocks == num_remote_blocks - skipped
    assert bench.tokens(attempt_id) == expected(prompt, [P, D, D, D])
    bench.check_nothing_is_held()


@every_pair
def test_a_prompt_that_is_there_entirely_does_not_travel(
    block_size: int, remote_block_size: int
) -> None:
    bench = a_bench(block_size, remote_block_size)
    prompt = list(range(32))
    for name in ("a", "b"):
        attempt_id = bench.submit(name, prompt)
        bench.run()
        assert bench.tokens(attempt_id) == expected(prompt, [P, D, D, D])
    handed = bench.told(Handed)[-1]
    assert isinstance(handed, Handed)
    assert (handed.moved.num_blocks, handed.moved.skipped_blocks) == (0, 32 // remote_block_size)
    bench.check_nothing_is_held()


@every_pair
def test_a_kept_sequence_moves_later_with_all_that_it_has_computed(
    block_size: int, remote_block_size: int
) -> None:
    bench = a_bench(block_size, remote_block_size, num_tokens=256)
    occupied = bench.decode.pool.try_allocate(bench.decode.pool.num_blocks)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT, max_tokens=12)
    bench.run(8)
    assert len(bench.told(Kept)) == 1
    assert 0 < len(bench.tokens(attempt_id)) < 12
    bench.decode.pool.release(occupied)
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    stamps = [token % 4 for token in bench.tokens(attempt_id)]
    assert stamps == sorted(stamps)
    assert {P, D} == set(stamps)
    assert bench.tokens(attempt_id) == expected(PROMPT, stamps)
    bench.check_nothing_is_held()


@some_pairs
def test_a_refused_sequence_is_offered_again_while_it_is_still_computed(
    block_size: int, remote_block_size: int
) -> None:
    bench = a_bench(block_size, remote_block_size, num_tokens=256, chunk_tokens=4)
    occupied = bench.decode.pool.try_allocate(bench.decode.pool.num_blocks)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT)
    bench.run(3)
    assert len(bench.told(Kept)) == 1
    assert not bench.tokens(attempt_id)
    bench.decode.pool.release(occupied)
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()


@pytest.mark.parametrize("num_turns", range(12))
@some_pairs
def test_blocks_return_when_the_client_leaves_at_any_moment(
    block_size: int, remote_block_size: int, num_turns: int
) -> None:
    bench = a_bench(block_size, remote_block_size, chunk_tokens=4)
    attempt_id = bench.submit("a", PROMPT, max_tokens=8)
    bench.run(num_turns)
    bench.cancel(attempt_id)
    bench.run()
    bench.check_nothing_is_held()


@pytest.mark.parametrize("num_turns", range(6))
@some_pairs
def test_a_link_that_breaks_at_any_moment_costs_no_token(
    block_size: int, remote_block_size: int, num_turns: int
) -> None:
    bench = a_bench(block_size, remote_block_size, chunk_tokens=4)
    attempt_id = bench.submit("a", PROMPT)
    bench.fabric.stall()
    bench.run(num_turns)
    bench.break_link()
    bench.fabric.resume()
    bench.run()
    stamps = [token % 4 for token in bench.tokens(attempt_id)]
    assert bench.tokens(attempt_id) == expected(PROMPT, stamps)
    assert len(stamps) == 4
    bench.check_nothing_is_held()
