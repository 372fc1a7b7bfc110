"""Sets of tokens against the obvious ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar.token_set import TokenSet

pytestmark = pytest.mark.quick


@st.composite
def members_of(draw: st.DrawFn) -> tuple[int, set[int]]:
    """A vocabulary's size, and some of it: few, half, most, or all."""
    size = draw(st.integers(1, 300))
    few = draw(st.sets(st.integers(0, size - 1)))
    return size, set(range(size)) - few if draw(st.booleans()) else few


@given(members_of())
def test_it_holds_the_tokens_of_its_mask(given_: tuple[int, set[int]]) -> None:
    size, members = given_
    mask = np.zeros((size + 31) // 32, np.uint32)
    for token in members:
        mask[token // 32] |= np.uint32(1 << token % 32)
    tokens = TokenSet(mask, size)
    assert tokens.members().tolist() == sorted(members)
    assert len(tokens.ids) == min(len(members), size - len(members))
    assert tokens.ids.tolist() == sorted(tokens.ids)
