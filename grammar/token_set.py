"""A set of tokens, stored as the shorter of the set and its complement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD = 32
"""Bits of a mask word."""


class TokenSet:
    """The tokens in `ids`, ascending; or, if `inverted`, all others.

    Grammars allow a few tokens, or forbid a few: between the parts of JSON or within its texts.
    """

    __slots__ = ("ids", "inverted", "vocab_size")

    def __init__(self, mask: NDArray[np.uint32], vocab_size: int) -> None:
        """From a bit mask: bit i of word w is token 32 · w + i; bits beyond are not set."""
        self.vocab_size = vocab_size
        self.inverted = 2 * int(np.bitwise_count(mask).sum()) > vocab_size
        listed = _bits(~mask if self.inverted else mask)
        self.ids = listed[: np.searchsorted(listed, vocab_size)]

    def members(self) -> NDArray[np.int64]:
        """All members, ascending."""
        if not self.inverted:
            return self.ids
        others = np.ones(self.vocab_size, bool)
        others[self.ids] = False
        return np.flatnonzero(others)


def _bits(mask: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Indices of the bits that are set, ascending; words without any are skipped."""
    words = np.flatnonzero(mask)
    bits = np.unpackbits(mask[words].view(np.uint8), bitorder="little")
    places = np.flatnonzero(bits)
    return words[places // WORD] * WORD + places % WORD
