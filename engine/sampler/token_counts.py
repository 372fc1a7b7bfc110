"""Counts of a sequence's tokens that are kept up from step to step."""

from __future__ import annotations

from array import array
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from engine.sequence import Sequence


class TokenCounts:
    """The distinct tokens of a list from its place `first` on, and how often each occurs."""

    def __init__(self, tokens: list[int], first: int) -> None:
        counted = Counter(tokens[first:])
        self._places = {token: place for place, token in enumerate(counted)}
        self._ids = array("q", counted)
        self._counts = array("q", counted.values())
        self._num_counted = len(tokens)

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.array(self._ids, np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.array(self._counts, np.int64)

    def update(self, tokens: list[int]) -> None:
        """Count the tokens that were appended to the list since."""
        for token in tokens[self._num_counted :]:
            place = self._places.setdefault(token, len(self._ids))
            if place == len(self._ids):
                self._ids.append(token)
                self._counts.append(0)
            self._counts[place] += 1
        self._num_counted = len(tokens)


class SequenceCounts:
    """Counts of one sequence's tokens, made when they are first asked for.

    While a sequence is sampled from, its tokens are only appended to: it is not the same object as
    its copy with drafts.
    """

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self._all: TokenCounts | None = None
        self._output: TokenCounts | None = None

    def of_all(self) -> TokenCounts:
        """Counts of prompt and output."""
        tokens = self.sequence.tokens
        self._all = self._all or TokenCounts(tokens, 0)
        self._all.update(tokens)
        return self._all

    def of_output(self) -> TokenCounts:
        tokens = self.sequence.tokens
        self._output = self._output or TokenCounts(tokens, self.sequence.num_prompt)
        self._output.update(tokens)
        return self._output
