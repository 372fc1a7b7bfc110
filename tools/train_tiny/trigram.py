"""The baseline: an interpolated Kneser-Ney trigram over the same tokens.

It is what counting alone gets from the same files.  A network that is not
clearly below its loss has learnt nothing that needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .data import Tokens

Floats = npt.NDArray[np.float64]

TUNED_ON_ONE_IN = 20
DISCOUNTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Counts:
    """How often each key was seen; keys not seen count nought."""

    keys: Tokens
    values: Tokens

    @classmethod
    def of(cls, keys: Tokens) -> Counts:
        """Counts the keys."""
        return cls(*np.unique(keys, return_counts=True))

    @classmethod
    def summed(cls, keys: Tokens, values: Tokens) -> Counts:
        """Adds up the values of equal keys."""
        found, places = np.unique(keys, return_inverse=True)
        totals = np.bincount(places, weights=values).astype(np.int64)
        return cls(found, totals)

    def __getitem__(self, keys: Tokens) -> Tokens:
        """The counts of many keys at once."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.values[places], 0)


class Trigram:
    """Interpolated Kneser-Ney, one discount an order.

    A pair of tokens is the number ``first * vocabulary + second``, a triple likewise.
    """

    def __init__(self, texts: Sequence[Tokens], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        triples = Counts.of(np.concatenate([self._triples(text) for text in texts]))
        pairs = Counts.of(triples.keys % vocabulary**2)  # in how many contexts a pair is seen
        tokens = Counts.of(pairs.keys % vocabulary)
        self.seen = [tokens, pairs, triples]
        self.totals = [self._contexts(counts, counts.values) for counts in self.seen]
        self.kinds = [self._contexts(counts, np.ones_like(counts.keys)) for counts in self.seen]

    def _contexts(self, counts: Counts, values: Tokens) -> Counts:
        """Adds up over the last token of each key."""
        return Counts.summed(counts.keys // self.vocabulary, values)

    def _triples(self, text: Tokens) -> Tokens:
        """Each token with the two before it; the first text token has the beginning twice."""
        padded = np.concatenate([text[:1], text])
        pairs = padded[:-2] * self.vocabulary + padded[1:-1]
        triples: Tokens = pairs * self.vocabulary + padded[2:]
        return triples

    def probabilities(self, text: Tokens, discounts: Sequence[float]) -> Floats:
        """The probability of each token of a text but the first, which is given."""
        triples = self._triples(text)
        found = np.full(len(triples), 1.0 / self.vocabulary)
        for order, discount in enumerate(discounts):
            keys = triples % self.vocabulary ** (order + 1)
            found = self._interpolate(order, keys, discount, found)
        return found

    def _interpolate(self, order: int, keys: Tokens, discount: float, lower: Floats) -> Floats:
        """Discounted counts, with the discounted mass given to the lower order."""
        contexts = keys // self.vocabulary
        total = np.maximum(self.totals[order][contexts], 1)
        known = self.totals[order][contexts] > 0
        counted = np.maximum(self.seen[order][keys] - discount, 0.0) / total
        left = discount * self.kinds[order][contexts] / total
        return np.where(known, counted + left * lower, lower)

    def nats(self, texts: Sequence[Tokens], discounts: Sequence[float]) -> float:
        """The sum of the negative logarithms over whole texts."""
        return float(sum(-np.log(self.probabilities(text, discounts)).sum() for text in texts))


def tune(texts: Sequence[Tokens], vocabulary: int) -> list[float]:
    """Discounts by coordinate search on a slice of the training files."""
    held = texts[::TUNED_ON_ONE_IN]
    counted = [text for i, text in enumerate(texts) if i % TUNED_ON_ONE_IN]
    trigram = Trigram(counted, vocabulary)
    best = [0.8, 0.8, 0.8]
    for order in (2, 1, 0, 2, 1, 0):
        options = [[*best[:order], value, *best[order + 1 :]] for value in DISCOUNTS]
        best = min(options, key=lambda option: trigram.nats(held, option))
    return best


def baseline_nats(train: Sequence[Tokens], held_out: Sequence[Tokens], vocabulary: int) -> float:
    """The tuned trigram of all training files, on the held-out ones."""
    return Trigram(train, vocabulary).nats(held_out, tune(train, vocabulary))
