"""Tokens of two streams, by position."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.answers.token_merger import TokenGap, TokenMerger
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
    assert merger.merge(output(0, 1)).tokens == (100,)
    assert merger.merge(output(0, 3)).tokens == (101, 102)
    new = merger.merge(output(1, 4))
    assert new.tokens == (103,)
    assert [each.logprob for each in new.logprobs] == [-103]
    assert new.position == 6
    assert merger.merge(output(0, 2)).tokens == ()
    assert merger.sequence == (1, 2, 3, 100, 101, 102, 103)


def test_an_end_is_told_though_all_tokens_were_delivered() -> None:
    merger = TokenMerger([1, 2, 3])
    merger.merge(output(0, 10))
    merger.merge(msgspec.structs.replace(output(10, 20), finish=None))
    assert merger.merge(output(10, 20)).finish is FinishReason.STOP


def test_a_gap_is_told_and_changes_nothing() -> None:
    merger = TokenMerger([1, 2, 3])
    assert merger.merge(output(0, 2)).tokens == (100, 101)
    with pytest.raises(TokenGap, match="token 6 came where 5 was next"):
        merger.merge(output(3, 5))
    assert merger.num_output == 2


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 6)), max_size=30))
def test_overlapping_outputs_never_repeat_or_lose_a_token(pieces: list[tuple[int, int]]) -> None:
    merger = TokenMerger([1, 2, 3])
    got: list[int] = []
    for start, size in pieces:
        if start > len(got):
            with pytest.raises(TokenGap):
                merger.merge(output(start, min(20, start + size)))
        else:
            got += merger.merge(output(start, min(20, start + size))).tokens
        assert tuple(got) == ANSWER[: len(got)]
