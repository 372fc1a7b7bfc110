"""Tokens of two streams, by position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.answers.token_merger import TokenMerger
from wire.identity import AttemptId
from wire.messages import FinishReason, Output
from wire.sampling import TokenLogprob

pytestmark = pytest.mark.quick

LEG = AttemptId("r")
ANSWER = tuple(range(100, 120))


def output(start: int, end: int) -> Output:
    """Tokens start to end of the answer to a prompt of three."""
    tokens = ANSWER[start:end]
    return Output(
        attempt_id=LEG,
        position=3 + start,
        tokens=tokens,
        logprobs=tuple(TokenLogprob(-float(token)) for token in tokens),
        finish=FinishReason.STOP if end == len(ANSWER) else None,
    )


def test_what_was_delivered_is_dropped() -> None:
    merger = TokenMerger([1, 2, 3])
    assert merger.merge([output(0, 1)]).tokens == [100]
    new = merger.merge([output(0, 3), output(1, 4)])
    assert new.tokens == [101, 102, 103]
    assert [each.logprob for each in new.logprobs] == [-101, -102, -103]
    assert merger.merge([output(0, 2)]).tokens == []
    assert merger.sequence == (1, 2, 3, 100, 101, 102, 103)


def test_what_precedes_a_gap_is_delivered_and_the_gap_is_told() -> None:
    merger = TokenMerger([1, 2, 3])
    new = merger.merge([output(0, 2), output(3, 5)])
    assert new.tokens == [100, 101]
    assert new.gap == "token 6 came where 5 was next"
    assert merger.num_output == 2


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 6)), max_size=30))
def test_overlapping_outputs_never_repeat_or_lose_a_token(pieces: list[tuple[int, int]]) -> None:
    merger = TokenMerger([1, 2, 3])
    got: list[int] = []
    for start, size in pieces:
        new = merger.merge([output(start, min(20, start + size))])
        assert (new.gap is not None) == (start > len(got))
        got += new.tokens
        assert tuple(got) == ANSWER[: len(got)]
