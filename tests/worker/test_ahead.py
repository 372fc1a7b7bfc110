"""Step loops whose steps are launched ahead: what is under way is over before an attempt
changes."""

from __future__ import annotations

import pytest

from kv_transfer.hashing import block_hashes
from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, expected
from wire.messages import Failed, Handed

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))  # 21 tokens: five full blocks of 4 and one token


def test_an_attempt_is_cancelled_when_the_step_under_way_is_over_and_told() -> None:
    bench = Bench(ahead=True, chunk_tokens=32)
    attempt_id = bench.submit("a", PROMPT, alone=True)
    bench.prefill.loop.turn()
    assert bench.prefill.engine.in_flight
    bench.prefill.loop.attempts.cancel(attempt_id)
    assert bench.prefill.pool.match_prefix(block_hashes(PROMPT, 4)) == 5
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P])
    bench.check_nothing_is_held()


def test_an_attempt_moves_when_the_step_under_way_is_over() -> None:
    bench = Bench(ahead=True)
    attempt_id = bench.submit("a", PROMPT, max_tokens=6, alone=True)
    while not bench.tokens(attempt_id):
        bench.turn()
    assert bench.prefill.engine.in_flight
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    tokens = bench.tokens(attempt_id)
    assert len(bench.told(Handed)) == 1
    assert tokens == expected(PROMPT, [token % 4 for token in tokens])
    assert (len(tokens), tokens[0] % 4, tokens[-1] % 4) == (6, P, D)
    bench.check_nothing_is_held()


def test_an_answer_that_ends_with_the_step_under_way_has_not_missed_its_deadline() -> None:
    bench = Bench(ahead=True, chunk_tokens=32)
    attempt_id = bench.submit("a", PROMPT, max_tokens=1, alone=True, deadline_s=1.0)
    bench.prefill.loop.turn()
    assert bench.prefill.engine.in_flight
    bench.now = 2.0
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P])
    assert bench.told(Failed) == []
    bench.check_nothing_is_held()
