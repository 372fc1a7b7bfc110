"""Log-probabilities of a prompt's own tokens: transformers', however the prompt is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runner import Runner
from engine.runners.torch_loading import load_torch_runner
from engine.sequence import Sequence
from tests.engine.driver import ChunkPolicy, make_sequence
from tests.engine.reference import Reference, prompt
from wire.sampling import SamplingParams, TokenLogprob

pytestmark = pytest.mark.quick

Runners = Callable[[str], Runner]
References = Callable[[str], Reference]
SCORED = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True, prompt_logprobs=2)
PLAIN = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)


def finish(engine: Engine, *sequences: Sequence) -> None:
    for sequence in sequences:
        engine.add(sequence)
    while engine.busy:
        engine.step()
    engine.pool.check_integrity()


def assert_transformers(
    scores: list[TokenLogprob], tokens: tuple[int, ...], reference: Reference
) -> None:
    expected = reference.logits(tokens).log_softmax(-1)
    assert len(scores) == len(tokens) - 1
    own = [expected[row, token].item() for row, token in enumerate(tokens[1:])]
    assert [score.logprob for score in scores] == pytest.approx(own, abs=1e-4)
    best = expected[:-1].topk(2)
    for score, values in zip(scores, best.values.tolist(), strict=True):
        assert score.top_logprobs == pytest.approx(tuple(values), abs=1e-4)
    assert [score.top_ids[0] for score in scores] == best.indices[:, 0].tolist()


@pytest.mark.parametrize("name", ["llama", "llama-dynamic", "qwen3"])
@pytest.mark.parametrize(("length", "chunk"), [(200, 1000), (70, 13), (70, 1), (2, 1)])
def test_they_are_those_of_transformers(
    name: str, length: int, chunk: int, runner: Runners, reference: References
) -> None:
    if name == "llama-dynamic" and length == 200:
        length = 150
    sequence = make_sequence(prompt(length), SCORED)
    finish(Engine(runner(name), BlockPool(128), ChunkPolicy(chunk)), sequence)
    assert_transformers(sequence.scores, prompt(length), reference(name))
    assert sequence.tokens[length:] == reference(name).greedy(prompt(length), 3)


def test_a_prompt_of_one_token_has_none(runner: Runners) -> None:
    sequence = make_sequence(prompt(1), SCORED)
    finish(Engine(runner("llama"), BlockPool(128), ChunkPolicy(9)), sequence)
    assert sequence.scores == []
    assert len(sequence.tokens) == 4


@pytest.mark.parametrize("chunk", [9, 1000])
def test_a_cached_prefix_is_computed_again(
    chunk: int, runner: Runners, reference: References
) -> None:
    """Its logits are nowhere; whoever comes next finds it as before, tails included."""
    engine = Engine(runner("llama"), BlockPool(128), ChunkPolicy(chunk))
    first, scored, last = (
        make_sequence(prompt(70), sampling, name=name)
        for name, sampling in (("first", PLAIN), ("scored", SCORED), ("last", PLAIN))
    )
    for sequence in (first, scored, last):
        finish(engine, sequence)
    assert (scored.num_cached, last.num_cached) == (0, 69)
    assert_transformers(scored.scores, prompt(70), reference("llama"))
    assert first.tokens == scored.tokens == last.tokens


def test_who_gives_way_in_the_middle_of_a_prompt_misses_none(
    runner: Runners, reference: References
) -> None:
    engine = Engine(runner("llama"), BlockPool(40), ChunkPolicy(5))
    prompts = [prompt(50), prompt(50, seed=1), prompt(50, seed=2)]
    sampling = SamplingParams(
        max_tokens=20, temperature=0.0, ignore_eos=True, prompt_logprobs=2, logprobs=1
    )
    sequences = [make_sequence(it, sampling, name=str(n)) for n, it in enumerate(prompts)]
    finish(engine, *sequences)
    assert engine.num_preemptions > 0
    for sequence, tokens in zip(sequences, prompts, strict=True):
        assert_transformers(sequence.scores, tokens, reference("llama"))


def test_neighbours_in_a_step_want_what_they_want(runner: Runners, reference: References) -> None:
    """Scored and not, with other numbers of alternatives, beside one that decodes."""
    engine = Engine(runner("llama"), BlockPool(128), ChunkPolicy(11))
    one = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True, prompt_logprobs=0)
    sequences = [
        make_sequence(prompt(3, seed=1), PLAIN, name="decodes"),
        make_sequence(prompt(30, seed=2), SCORED, name="scored"),
        make_sequence(prompt(30, seed=3), PLAIN, name="plain"),
        make_sequence(prompt(30, seed=4), one, name="alone"),
    ]
    finish(engine, *sequences)
    assert_transformers(sequences[1].scores, prompt(30, seed=2), reference("llama"))
    assert not sequences[2].scores
    assert {score.top_ids for score in sequences[3].scores} == {()}
    for sequence in sequences:
        tokens = tuple(sequence.tokens[: sequence.num_prompt])
        assert sequence.tokens[len(tokens) :] == reference("llama").greedy(tokens, 3)


def test_an_engine_that_runs_ahead_tells_the_same(
    checkpoint: Callable[[str], Path], reference: References
) -> None:
    runner = load_torch_runner(checkpoint("llama"), device="cpu", block_size=4)
    runner.runs_ahead = True
    runner.allocate(128)
    engine = AsyncEngine(runner, BlockPool(128), ChunkPolicy(7))
    sequences = [make_sequence(prompt(60, seed=n), SCORED, name=str(n)) for n in range(3)]
    finish(engine, *sequences)
    for number, sequence in enumerate(sequences):
        assert_transformers(sequence.scores, prompt(60, seed=number), reference("llama"))


def test_logits_of_few_rows_are_there_at_a_time(
    runner: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a whole prompt would be as large as a cache."""
    loaded = runner("llama")
    seen: list[int] = []
    logits = loaded._model.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(loaded._model, "logits", counted)
    finish(Engine(loaded, BlockPool(128), ChunkPolicy(1000)), make_sequence(prompt(201), SCORED))
    assert seen[:3] == [128, 72, 1]
