"""Log-probabilities of a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.to_device import Arriving, to_device
from engine.runner import Collect, Outcome, Scored, Slice, drawn
from engine.sampler.sampler import describe
from wire.sampling import TokenLogprob

MOST_ROWS = 128
"""Whose logits are there at a time: those of a long prompt would not fit beside the cache."""
Logits = Callable[[Tensor], Tensor]


def score(hidden: Tensor, logits: Logits, slices: Seq[Slice]) -> list[Tensor]:
    """Own log-probabilities [rows], ids and values of the best [rows, count], by a slice's rows.

    `hidden` [rows, hidden_size] are the rows of all slices' `num_scored` leading tokens.
    """
    targets, count = [], 0
    for piece in slices:
        if num := piece.num_scored:
            targets += piece.sequence.tokens[piece.start + 1 : piece.start + 1 + num]
            count = max(count, piece.sequence.sampling.prompt_logprobs or 0)
    wanted = to_device(targets, hidden.device)
    parts = [
        describe(logits(hidden[rows]).log_softmax(-1), wanted[rows], count)
        for rows in _parts(len(hidden))
    ]
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def score_along(hidden: Tensor, logits: Logits) -> None:
    """A rank's part of the same, when another rank has the sequences."""
    for rows in _parts(len(hidden)):
        logits(hidden[rows])


def _parts(num_rows: int) -> Iterator[slice]:
    return (slice(begin, begin + MOST_ROWS) for begin in range(0, num_rows, MOST_ROWS))


@dataclass(frozen=True, slots=True)
class WithScores:
    """A step's outcomes together with the scores of its slices, of `counts` rows and best each."""

    collect: Collect
    counts: Seq[tuple[int, int]]
    arriving: Arriving

    def __call__(self) -> list[Outcome]:
        outcomes = self.collect()
        rows = zip(*(tensor.tolist() for tensor in self.arriving.wait()), strict=True)
        made: list[Outcome] = []
        for outcome, (num_rows, num_best) in zip(outcomes, self.counts, strict=True):
            scores = tuple(
                TokenLogprob(own, tuple(ids[:num_best]), tuple(values[:num_best]))
                for _, (own, ids, values) in zip(range(num_rows), rows, strict=False)
            )
            made.append(Scored(drawn(outcome), scores) if scores else outcome)
        return made
