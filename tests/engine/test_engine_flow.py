"""The engine's bookkeeping, on the runner that can be computed by hand."""

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.errors import SequenceError
from engine.runners.arithmetic_runner import ArithmeticRunner, next_token
from engine.schedule.policy import Policy
from engine.sequence import Sequence, Status
from prefill_worker.scheduler import PrefillPolicy
from wire.identity import AttemptId
from wire.messages import FinishReason
from wire.sampling import SamplingParams
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick


def an_engine(num_blocks: int = 64, policy: Policy | None = None) -> Engine:
    runner = ArithmeticRunner(block_size=4)
    runner.allocate(num_blocks)
    return Engine(runner, BlockPool(num_blocks), policy or DecodePolicy())


def a_sequence(
    name: str, prompt: list[int], max_tokens: int = 4, stop: tuple[int, ...] = ()
) -> Sequence:
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=stop)
    return Sequence(AttemptId(name), list(prompt), sampling)


def run(engine: Engine, *sequences: Sequence) -> list[list[int]]:
    for sequence in sequences:
        engine.add(sequence)
    while engine.busy:
        engine.step()
        engine.pool.check_integrity()
    assert engine.pool.num_free == engine.pool.num_blocks
    return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]


def expected(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, 0, 2048))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("policy", [PrefillPolicy(chunk_tokens=5), DecodePolicy(5, 3)])
def test_chunked_prompts_of_all_lengths_give_the_tokens_of_the_formula(policy: Policy) -> None:
    prompts = [list(range(n, 2 * n)) for n in (1, 3, 4, 5, 15, 16, 17, 40)]
    sequences = [a_sequence(str(len(p)), p, 7) for p in prompts]
    answers = run(an_engine(policy=policy), *sequences)
    assert answers == [expected(prompt, 7) for prompt in prompts]


def test_a_prefix_hit_skips_computing_and_changes_nothing() -> None:
    engine = an_engine()
    prompt = list(range(30))
    (first,) = run(engine, a_sequence("a", prompt))
    second = a_sequence("b", prompt)
    assert run(engine, second) == [first]
    assert second.num_cached == 29


def test_at_least_one_prompt_token_is_always_computed() -> None:
    engine = an_engine()
    prompt = list(range(32))
    run(engine, a_sequence("a", prompt))
    second = a_sequence("b", prompt)
    assert run(engine, second) == [expected(prompt, 4)]
    assert second.num_cached == 31


def test_what_was_decoded_is_prefix_cache_for_the_next_turn() -> None:
    engine = an_engine()
    prompt = list(range(8))
    (answer,) = run(engine, a_sequence("a", prompt, max_tokens=9))
    turn = a_sequence("b", [*prompt, *answer, 1, 2])
    run(engine, turn)
    assert turn.num_cached == 16


def test_tenants_with_different_salts_share_no_blocks() -> None:
    engine = an_engine()
    prompt = list(range(30))
    run(engine, a_sequence("a", prompt))
    other = Sequence(
        AttemptId("b"),
        prompt,
        SamplingParams(max_tokens=4),
        traits=RequestTraits(cache_salt=b"other"),
    )
    run(engine, other)
    assert other.num_cached == 0


def test_preempted_sequences_end_as_if_nothing_had_happened() -> None:
    engine = an_engine(num_blocks=16, policy=DecodePolicy(headroom_blocks=0))
    prompts = [[i, i + 1, i + 2] for i in range(5)]
    answers = run(engine, *(a_sequence(str(p), p, 25) for p in prompts))
    assert engine.num_preemptions > 0
    assert answers == [expected(prompt, 25) for prompt in prompts]


def test_a_sequence_larger_than_the_pool_is_refused_with_the_numbers() -> None:
    engine = an_engine(num_blocks=4)
    with pytest.raises(SequenceError, match="14 prompt tokens and 4 new ones are more than the 16"):
        engine.add(a_sequence("a", list(range(14))))


@pytest.mark.parametrize("token", [-1, 2048])
def test_a_token_that_the_model_does_not_have_is_refused(token: int) -> None:
    with pytest.raises(SequenceError, match="the model's from 0 to 2047"):
        an_engine().add(a_sequence("a", [1, token]))


def test_a_stop_token_ends_the_sequence_and_is_kept() -> None:
    prompt = [1, 2, 3]
    stop = expected(prompt, 3)[2]
    engine = an_engine()
    sequence = a_sequence("a", prompt, max_tokens=9, stop=(stop,))
    engine.add(sequence)
    while engine.busy:
        (progress,) = engine.step()
    assert progress.finish is FinishReason.STOP
    assert progress.stop_token == stop
    assert sequence.num_output == 3


def test_min_tokens_holds_a_stop_token_off() -> None:
    prompt = [1, 2, 3]
    stop = expected(prompt, 3)[2]
    sampling = SamplingParams(max_tokens=5, min_tokens=4, stop_token_ids=(stop,))
    sequence = Sequence(AttemptId("a"), prompt, sampling)
    assert len(run(an_engine(), sequence)[0]) == 5


@pytest.mark.parametrize("num_steps", range(6))
def test_dropping_at_any_moment_gives_the_blocks_back(num_steps: int) -> None:
    engine = an_engine(policy=PrefillPolicy(chunk_tokens=4))
    sequence = a_sequence("a", list(range(13)))
    engine.add(sequence)
    for _ in range(num_steps):
        engine.step()
    engine.drop(sequence)
    engine.drop(sequence)
    engine.pool.check_integrity()
    assert engine.pool.num_free == engine.pool.num_blocks
    assert not engine.busy


def test_a_held_sequence_keeps_its_blocks_and_resumes_where_it_was() -> None:
    engine = an_engine()
    sequence = a_sequence("a", list(range(9)), 6)
    engine.add(sequence)
    engine.step()
    engine.hold(sequence)
    assert not engine.busy
    assert engine.pool.num_free < engine.pool.num_blocks
    engine.resume(sequence)
    while engine.busy:
        engine.step()
    assert sequence.tokens[9:] == expected(list(range(9)), 6)


def test_a_pinned_sequence_never_gives_its_blocks_away() -> None:
    engine = an_engine(num_blocks=8, policy=DecodePolicy(headroom_blocks=0))
    pinned, other = a_sequence("p", list(range(12)), 2), a_sequence("o", list(range(12)), 12)
    engine.add(pinned)
    engine.step()
    pinned.pinned = True
    engine.hold(pinned)
    blocks = list(pinned.blocks)
    engine.add(other)
    for _ in range(20):
        engine.step()
    assert pinned.blocks == blocks
    pinned.pinned = False
    engine.drop(pinned)
    while engine.busy:
        engine.step()
    assert other.tokens[12:] == expected(list(range(12)), 12)


def test_illegal_transitions_are_errors_of_ours() -> None:
    sequence = a_sequence("a", [1])
    with pytest.raises(AssertionError):
        sequence.move(Status.HELD)
