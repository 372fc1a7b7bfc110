"""Steps planned while the one before is computed: the same answers, and no block too early."""

from __future__ import annotations

import random

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runners.arithmetic_runner import ArithmeticRunner, next_token
from engine.schedule.policy import Policy
from engine.sequence import Sequence, Status
from prefill_worker.scheduler import PrefillPolicy
from wire.identity import AttemptId
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick


def an_engine(num_blocks: int = 64, policy: Policy | None = None) -> AsyncEngine:
    runner = ArithmeticRunner(block_size=4, runs_ahead=True)
    runner.allocate(num_blocks)
    return AsyncEngine(runner, BlockPool(num_blocks), policy or DecodePolicy())


def a_sequence(name: str, prompt: list[int], max_tokens: int = 4, **sampling: object) -> Sequence:
    params = SamplingParams(**{"max_tokens": max_tokens, **sampling})
    return Sequence(AttemptId(name), list(prompt), params)


def finish(engine: Engine) -> None:
    while engine.busy:
        engine.step()
        engine.pool.check_integrity()


def expected(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, 0, 2048))
    return tokens[len(prompt) :]


def test_a_step_is_told_when_the_next_has_been_launched() -> None:
    engine = an_engine()
    sequence = a_sequence("a", [1, 2, 3])
    engine.add(sequence)
    assert engine.step() == []
    assert (sequence.num_unknown, sequence.num_output) == (1, 0)
    [progress] = engine.step()
    assert (progress.start, progress.end) == (0, 3)
    assert (sequence.num_unknown, sequence.num_output) == (1, 1)
    finish(engine)
    assert sequence.tokens[3:] == expected([1, 2, 3], 4)


def test_no_step_is_launched_behind_the_last_token() -> None:
    engine = an_engine()
    engine.add(a_sequence("a", [1, 2, 3], max_tokens=2))
    engine.step(), engine.step()
    assert engine.schedule() == []
    [progress] = engine.step()
    assert progress.finish is not None
    assert not engine.busy


def test_the_token_behind_a_stop_is_dropped_and_its_block_stays_until_it_is_drawn() -> None:
    engine, prompt = an_engine(), [1, 2]
    answer = expected(prompt, 3)
    sequence = a_sequence("a", prompt, max_tokens=9, stop_token_ids=(answer[-1],))
    engine.add(sequence)
    while sequence.status is not Status.FINISHED:
        engine.step()
    assert sequence.tokens == prompt + answer
    assert engine.in_flight
    assert engine.pool.num_free < engine.pool.num_blocks
    assert engine.step() == []
    assert sequence.tokens == prompt + answer
    assert not engine.busy
    assert engine.pool.num_free == engine.pool.num_blocks


def test_penalties_wait_for_the_token_before() -> None:
    engine = an_engine()
    engine.add(a_sequence("a", [1, 2, 3], presence_penalty=0.5))
    engine.step()
    assert not engine.may_go_ahead
    [progress] = engine.step()
    assert len(progress.sampled) == 1


def test_what_is_dropped_under_way_is_free_when_its_step_is_over() -> None:
    engine = an_engine()
    sequence = a_sequence("a", list(range(9)), max_tokens=9)
    engine.add(sequence)
    engine.step()
    engine.drop(sequence)
    assert engine.pool.num_free < engine.pool.num_blocks
    assert engine.settle() == []
    assert engine.pool.num_free == engine.pool.num_blocks
    assert sequence.num_steps_in_flight == sequence.num_unknown == 0


def test_a_sequence_is_not_held_while_a_step_of_it_is_under_way() -> None:
    engine = an_engine()
    sequence = a_sequence("a", [1, 2, 3])
    engine.add(sequence)
    engine.step()
    with pytest.raises(AssertionError, match="in flight"):
        engine.hold(sequence)
    engine.settle()
    engine.hold(sequence)
    engine.resume(sequence)
    finish(engine)
    assert sequence.tokens[3:] == expected([1, 2, 3], 4)


def test_preempted_sequences_end_as_if_nothing_had_happened() -> None:
    engine = an_engine(num_blocks=16, policy=DecodePolicy(headroom_blocks=0))
    prompts = [[i, i + 1, i + 2] for i in range(5)]
    sequences = [a_sequence(str(p), p, 25) for p in prompts]
    for sequence in sequences:
        engine.add(sequence)
    finish(engine)
    assert engine.num_preemptions > 0
    assert [s.tokens[3:] for s in sequences] == [expected(prompt, 25) for prompt in prompts]


@pytest.mark.parametrize("seed", range(60))
def test_any_life_gives_the_tokens_of_the_formula(seed: int) -> None:
    """Sequences come, are dropped, held and resumed; prompts share blocks and memory is scarce."""
    draw = random.Random(seed)
    policy = draw.choice([DecodePolicy(6, 3, headroom_blocks=0), PrefillPolicy(chunk_tokens=5)])
    engine = an_engine(draw.choice([10, 16, 40]), policy)
    sequences: list[Sequence] = []
    dropped: set[AttemptId] = set()
    for _ in range(200):
        if len(sequences) < 14 and draw.random() < 0.25:
            sequences.append(_a_random_sequence(draw, len(sequences)))
            engine.add(sequences[-1])
        if engine.running and draw.random() < 0.1:
            if draw.random() < 0.7:
                engine.settle()
            chosen = draw.choice(engine.running) if engine.running else None
            if chosen is not None and (chosen.num_steps_in_flight or draw.random() < 0.5):
                engine.drop(chosen)
                dropped.add(chosen.attempt_id)
            elif chosen is not None:
                engine.hold(chosen)
        elif engine.held and draw.random() < 0.3:
            engine.resume(draw.choice(list(engine.held.values())))
        engine.step()
        engine.pool.check_integrity()
    for sequence in list(engine.held.values()):
        engine.resume(sequence)
    finish(engine)
    assert engine.pool.num_free == engine.pool.num_blocks
    for sequence in sequences:
        if sequence.attempt_id not in dropped:
            _check(sequence)


def _a_random_sequence(draw: random.Random, number: int) -> Sequence:
    start, length = draw.choice([0, 0, 7]), draw.randint(1, 18)
    prompt, sampling = list(range(start, start + length)), {}
    if draw.random() < 0.3:
        sampling["stop_token_ids"] = (expected(prompt, draw.randint(1, 6))[-1],)
    if draw.random() < 0.2:
        sampling["frequency_penalty"] = 0.1
    return a_sequence(str(number), prompt, draw.randint(1, 20), **sampling)


def _check(sequence: Sequence) -> None:
    prompt, answer = sequence.tokens[: sequence.num_prompt], sequence.tokens[sequence.num_prompt :]
    sampling = sequence.sampling
    assert answer == expected(prompt, len(answer))
    stopped = answer[-1] in sampling.stop_token_ids
    assert stopped or len(answer) == sampling.max_tokens
    assert not set(answer[:-1]) & set(sampling.stop_token_ids)


def test_chunks_of_a_prompt_that_is_handed_over_do_not_wait_for_each_other() -> None:
    engine = an_engine(policy=PrefillPolicy(chunk_tokens=4))
    sequence = a_sequence("a", list(range(12)), max_tokens=9)
    sequence.pinned = True  # as an offer does
    engine.add(sequence)
    ends = []
    for launched in (4, 8, 12):
        assert engine.may_go_ahead
        ends += [progress.end for progress in engine.step()]
        assert sequence.num_computed == launched
    assert ends == [4, 8]


def test_a_prompt_that_is_handed_over_leaves_with_its_first_token() -> None:
    engine = an_engine(policy=PrefillPolicy(chunk_tokens=8))
    handed, other = a_sequence("a", [1, 2, 3], 9), a_sequence("b", list(range(20)))
    handed.pinned = True
    for sequence in (handed, other):
        engine.add(sequence)
    engine.step()
    assert handed.num_unknown == 1
    slices = engine.schedule()
    assert [slice.sequence for slice in slices] == [other]  # which goes on meanwhile
    [progress, _] = engine.run(slices)
    assert [drawn.token for drawn in progress.sampled] == expected([1, 2, 3], 1)
    engine.hold(handed)


def test_layers_are_told_when_the_next_step_has_been_launched() -> None:
    engine, told = an_engine(policy=PrefillPolicy(chunk_tokens=4)), list[int]()
    engine.add(a_sequence("a", list(range(8))))
    engine.admit()
    engine.run(engine.schedule(), told.append)
    assert told == []
    engine.run(engine.schedule())
    assert told == [1]
