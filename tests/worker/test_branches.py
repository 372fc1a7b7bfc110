"""Several answers to one prompt: its blocks are computed once and held once."""

from __future__ import annotations

import pytest

from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, Station, expected
from wire.identity import AttemptId
from wire.messages import Handed, Prefilled, Submit
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))  # 21 tokens: five full blocks of 4 and one token
NUM_BRANCHES = 3
NUM_TOKENS = 20


def branch(station: Station, number: int) -> AttemptId:
    """As a router submits it to whoever decodes the first answer."""
    attempt_id = AttemptId(f"branch {number}")
    sampling = SamplingParams(max_tokens=NUM_TOKENS, seed=number)
    submit = Submit(
        attempt_id=attempt_id, tokens=tuple(PROMPT), num_prompt=len(PROMPT), sampling=sampling
    )
    station.loop.attempts.submit("router", submit)
    return attempt_id


@pytest.mark.parametrize("ahead", [False, True])
def test_branches_find_the_prompt_that_was_handed_over(ahead: bool) -> None:
    bench = Bench(ahead=ahead)
    first = bench.submit("first", PROMPT, max_tokens=NUM_TOKENS)
    while not bench.told(Handed):
        bench.turn()
    alone = bench.decode.pool.num_blocks - bench.decode.pool.num_free
    attempts = [branch(bench.decode, number) for number in range(1, NUM_BRANCHES + 1)]
    bench.run(3)
    shared = bench.decode.pool.num_blocks - bench.decode.pool.num_free
    assert shared - alone <= 2 * NUM_BRANCHES  # of the prompt's six blocks, one each at most
    bench.run()
    found = [told.cached_tokens for told in bench.told(Prefilled) if isinstance(told, Prefilled)]
    assert found == [0, *[20] * NUM_BRANCHES]
    assert bench.tokens(first) == expected(PROMPT, [P, *[D] * (NUM_TOKENS - 1)])
    for attempt_id in attempts:
        assert bench.tokens(attempt_id) == expected(PROMPT, [D] * NUM_TOKENS)
    bench.check_nothing_is_held()


def test_branches_find_the_prompt_that_one_worker_computed() -> None:
    bench = Bench()
    bench.submit("first", PROMPT, max_tokens=NUM_TOKENS, alone=True)
    while not bench.told(Prefilled):
        bench.turn()
    attempts = [branch(bench.prefill, number) for number in range(1, NUM_BRANCHES + 1)]
    bench.run()
    found = [told.cached_tokens for told in bench.told(Prefilled) if isinstance(told, Prefilled)]
    assert found == [0, *[20] * NUM_BRANCHES]
    for attempt_id in attempts:
        assert bench.tokens(attempt_id) == expected(PROMPT, [P] * NUM_TOKENS)
    bench.check_nothing_is_held()
