"""Log-probabilities of prompts come with the first token, whichever worker tells it."""

from __future__ import annotations

import pytest

from engine.runners.arithmetic_runner import score
from tests.worker.bench import DECODE_STAMP, PREFILL_STAMP, Bench, expected
from wire.messages import Handed, Output
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))
SCORED = SamplingParams(max_tokens=4, prompt_logprobs=1)
SCORES = tuple(score(token, PREFILL_STAMP) for token in PROMPT[1:])


def told(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if output.prompt_logprobs]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("chunk_tokens", [8, 512])
def test_both_workers_tell_what_the_first_computed(ahead: bool, chunk_tokens: int) -> None:
    """The two streams may overtake each other: each has them beside the first token."""
    bench = Bench(chunk_tokens=chunk_tokens, ahead=ahead)
    attempt_id = bench.submit("a", PROMPT, sampling=SCORED)
    while len(bench.tokens(attempt_id)) < 4:
        bench.turn()
    bench.run()
    assert bench.told(Handed)
    assert len(bench.tokens(attempt_id)) == 4
    first, second = told(bench.outputs(attempt_id))
    assert (first.position, second.position) == (len(PROMPT), len(PROMPT))
    assert first.prompt_logprobs == second.prompt_logprobs == SCORES
    bench.check_nothing_is_held()


@pytest.mark.parametrize("max_tokens", [1, 4])
def test_a_worker_alone_tells_them_once(max_tokens: int) -> None:
    bench = Bench()
    sampling = SamplingParams(max_tokens=max_tokens, prompt_logprobs=1)
    attempt_id = bench.submit("a", PROMPT, sampling=sampling, alone=True)
    bench.run()
    (first,) = told(bench.outputs(attempt_id))
    assert first.prompt_logprobs == SCORES
    assert bench.tokens(attempt_id) == expected(PROMPT, [PREFILL_STAMP] * max_tokens)


def test_what_the_decode_worker_has_cached_is_not_what_is_asked_for() -> None:
    """It has the whole prompt from before; still the prefill worker computes all of it."""
    bench = Bench()
    bench.submit("a", PROMPT)
    bench.run()
    attempt_id = bench.submit("b", PROMPT, sampling=SCORED)
    bench.run()
    assert told(bench.outputs(attempt_id))[0].prompt_logprobs == SCORES
    assert bench.tokens(attempt_id)[1] % 4 == DECODE_STAMP
    bench.check_nothing_is_held()
