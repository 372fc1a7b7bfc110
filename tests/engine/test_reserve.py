"""Blocks for sequences that other workers offer."""

from __future__ import annotations

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.cache.reservation import OfferedSequence
from engine.engine import Engine
from engine.runners.arithmetic_runner import ArithmeticRunner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick

PROMPT = list(range(10))


def an_engine(num_blocks: int = 8, max_sequences: int = 4) -> Engine:
    runner = ArithmeticRunner(block_size=4)
    runner.allocate(num_blocks)
    policy = DecodePolicy(max_sequences=max_sequences, headroom_blocks=0)
    return Engine(runner, BlockPool(num_blocks), policy)


def an_offer(
    tokens: list[int], block_size: int = 4, *, salt: bytes = b"", runs: bool = True
) -> OfferedSequence:
    return OfferedSequence(tokens, RequestTraits(cache_salt=salt), block_size, runs)


def run(engine: Engine, tokens: list[int], max_tokens: int = 1) -> None:
    engine.add(Sequence(AttemptId("before"), tokens, SamplingParams(max_tokens=max_tokens)))
    while engine.busy:
        engine.step()


def test_a_reservation_has_a_block_for_every_token() -> None:
    engine = an_engine()
    reserved = engine.try_reserve(an_offer(PROMPT), 0)
    assert reserved is not None
    assert (len(reserved.cached), len(reserved.blank)) == (0, 3)
    assert engine.pool.num_free == 5
    engine.pool.release(reserved.blocks)
    engine.memory.check_integrity()


def test_cached_blocks_are_part_of_it_and_count_as_found() -> None:
    engine = an_engine()
    run(engine, PROMPT)
    reserved = engine.try_reserve(an_offer(PROMPT), 0)
    assert reserved is not None
    assert (len(reserved.cached), len(reserved.blank)) == (2, 1)
    assert engine.pool.num_found == 2
    engine.pool.release(reserved.blocks)
    assert engine.pool.num_free == engine.pool.num_blocks


def test_another_tenants_blocks_are_not() -> None:
    engine = an_engine()
    run(engine, PROMPT)
    reserved = engine.try_reserve(an_offer(PROMPT, salt=b"other"), 0)
    assert reserved is not None
    assert reserved.cached == []


def test_cached_blocks_end_where_a_block_of_the_source_does() -> None:
    engine = an_engine()
    run(engine, list(range(13)))
    reserved = engine.try_reserve(an_offer(list(range(14)), block_size=8), 0)
    assert reserved is not None
    assert (len(reserved.cached), len(reserved.blank)) == (2, 2)
    engine.pool.release(reserved.blocks)
    engine.memory.check_integrity()


def test_nothing_is_taken_when_blocks_are_missing() -> None:
    engine = an_engine(num_blocks=4)
    run(engine, PROMPT)
    assert engine.try_reserve(an_offer(list(range(20))), 0) is None
    assert engine.pool.num_free == 4
    assert engine.pool.num_found == 0
    engine.memory.check_integrity()


def test_the_policy_counts_those_that_have_reserved_before() -> None:
    engine = an_engine(max_sequences=2)
    assert engine.try_reserve(an_offer(PROMPT), 1) is not None
    assert engine.try_reserve(an_offer([1]), 2) is None


def test_an_offer_waits_behind_the_queue_unless_it_is_only_for_the_cache() -> None:
    engine = an_engine()
    engine.add(Sequence(AttemptId("first"), PROMPT, SamplingParams(max_tokens=1)))
    assert engine.try_reserve(an_offer([1, 2]), 0) is None
    assert engine.try_reserve(an_offer([1, 2], runs=False), 0) is not None
