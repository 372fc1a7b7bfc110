"""Slices that sample several rows: what is drawn behind drafts is what single steps would draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runner import Runner, Sampled, Slice, accepted, drawn
from engine.runners.arithmetic_runner import ArithmeticRunner
from engine.runners.torch_loading import load_torch_runner
from engine.sequence import Sequence
from tests.engine.driver import decode, give_blocks, make_sequence, output, step
from tests.engine.reference import prompt
from wire.identity import AttemptId
from wire.sampling import SamplingParams

NUM_DRAFTS = 5
SAMPLINGS = {
    "greedy": SamplingParams(max_tokens=99, temperature=0.0),
    "sampled": SamplingParams(max_tokens=99, seed=3, temperature=1.2, top_p=0.9, logprobs=2),
    "penalized": SamplingParams(
        max_tokens=99, seed=4, temperature=1.3, frequency_penalty=0.7, min_tokens=8
    ),
}


@pytest.fixture(scope="module", params=["native", "torch", "arithmetic"])
def runner(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Runner:
    if request.param == "arithmetic":
        made: Runner = ArithmeticRunner(block_size=4)
    else:
        dtype = "float32" if request.param == "native" else "float16"
        made = load_torch_runner(checkpoint("llama"), device="cpu", dtype=dtype, block_size=4)
    made.allocate(128)
    return made


def a_prefilled(
    runner: Runner, sampling: SamplingParams, name: str, pool: BlockPool | None = None
) -> Sequence:
    """A sequence whose last known token is the only one to compute."""
    sequence = make_sequence(prompt(11), sampling, name=name)
    give_blocks(sequence, pool or BlockPool(128), 40)
    step(runner, [(sequence, 11)])
    return sequence


def one_by_one(runner: Runner, sampling: SamplingParams, count: int) -> list[Sampled]:
    sequence = a_prefilled(runner, sampling, "single")
    made = [step(runner, [(sequence, 1)])[0] for _ in range(count)]
    return [each for each in made if each is not None]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_rows_behind_right_drafts_draw_what_single_steps_draw(runner: Runner, name: str) -> None:
    expected = one_by_one(runner, SAMPLINGS[name], NUM_DRAFTS + 1)
    drafts = tuple(each.token for each in expected[:NUM_DRAFTS])
    pool = BlockPool(128)
    sequence = a_prefilled(runner, SAMPLINGS[name], "drafted", pool)
    other = a_prefilled(runner, SAMPLINGS["greedy"], "neighbour", pool)
    slices = [
        Slice(sequence, 11, 1 + NUM_DRAFTS, drafts),
        Slice(make_prompt(), 0, 3),
        Slice(other, 11, 1),
    ]
    assert [piece.num_sampled for piece in slices] == [NUM_DRAFTS + 1, 0, 1]
    draws, nothing, one = map(drawn, runner.run(slices))
    assert [each.token for each in draws] == [each.token for each in expected]
    assert (len(nothing), len(one)) == (0, 1)
    for ours, single in zip(draws, expected, strict=True):
        assert (ours.logprob is None) == (single.logprob is None)
        if ours.logprob is not None and single.logprob is not None:
            assert ours.logprob.logprob == pytest.approx(single.logprob.logprob, abs=1e-2)


def test_rows_up_to_a_wrong_draft_are_right(runner: Runner) -> None:
    sampling = SAMPLINGS["sampled"]
    expected = [each.token for each in one_by_one(runner, sampling, 3)]
    wrong = (expected[1] + 1) % 101
    sequence = a_prefilled(runner, sampling, "drafted")
    [outcome] = runner.run([Slice(sequence, 11, 4, (expected[0], wrong, expected[2]))])
    draws = drawn(outcome)
    assert [each.token for each in draws[:2]] == expected[:2]
    assert accepted((expected[0], wrong, expected[2]), draws) == draws[:2]


def test_draws_behind_the_first_wrong_draft_are_not_accepted() -> None:
    draws = tuple(map(Sampled, (5, 6, 7)))
    assert accepted((), draws[:1]) == draws[:1]
    assert accepted((), ()) == ()
    assert accepted((5, 6), draws) == draws
    assert accepted((5, 9), draws) == draws[:2]
    assert accepted((9, 6), draws) == draws[:1]


def make_prompt() -> Sequence:
    sequence = make_sequence(prompt(9), name="prompt")
    sequence.blocks = list(range(100, 110))
    return sequence


class Guessing:
    """An engine's `schedule`, with drafts: of the known answer, each third of them wrong."""

    answer: list[int]

    def schedule(self) -> list[Slice]:
        slices = super().schedule()  # type: ignore[misc]
        return [self._drafted(piece) for piece in slices]

    def _drafted(self, piece: Slice) -> Slice:
        sequence = piece.sequence
        if sequence.num_unknown or not piece.num_sampled or not sequence.num_output:
            return piece
        first = sequence.num_output
        right = self.answer[first : first + 4]
        guesses = tuple(it + (first + n) % 3 // 2 for n, it in enumerate(right))
        missing = -(-(piece.end + len(guesses)) // 4) - len(sequence.blocks)
        sequence.blocks += self.pool.try_allocate(max(0, missing))  # type: ignore[attr-defined]
        return Slice(sequence, piece.start, piece.count + len(guesses), guesses)


class GuessingEngine(Guessing, Engine):
    pass


class GuessingAsyncEngine(Guessing, AsyncEngine):
    @property
    def may_go_ahead(self) -> bool:
        """Drafts need the token before them, so that each step is settled before the next."""
        return not self.in_flight


@pytest.mark.parametrize("kind", [GuessingEngine, GuessingAsyncEngine])
@pytest.mark.parametrize("stops", [False, True])
def test_an_engine_accepts_drafts_as_far_as_they_are_right(
    kind: type[GuessingEngine | GuessingAsyncEngine], stops: bool
) -> None:
    runner = ArithmeticRunner(block_size=4, runs_ahead=kind is GuessingAsyncEngine)
    runner.allocate(64)
    alone = make_sequence(range(7), name="alone")
    give_blocks(alone, BlockPool(64), 60)
    decode(runner, [alone], 30)
    answer = output(alone)
    engine = kind(runner, BlockPool(64), DecodePolicy())
    engine.answer = answer
    stop_token_ids = (answer[20],) if stops else ()
    sampling = SamplingParams(max_tokens=30, stop_token_ids=stop_token_ids)
    sequence = Sequence(AttemptId("drafted"), list(range(7)), sampling)
    engine.add(sequence)
    most, reached = 0, 0
    while engine.busy:
        for progress in engine.step():
            assert progress.start == reached
            most, reached = max(most, len(progress.sampled)), progress.end
        engine.pool.check_integrity()
    assert most > 1
    assert output(sequence) == answer[: 21 if stops else 30]
    assert engine.pool.num_free == engine.pool.num_blocks
