"""Prompt log-probabilities: scores of a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.to_device import PendingHostCopy, to_device
from engine.runner import Collect, Outcome, Scored, Slice, drawn
from engine.sampler.sampler import describe
from wire.sampling import TokenLogprob

MAX_ROWS = 128
"""Rows whose logits are in memory at a time: a long prompt's would not fit beside the cache."""
Logits = Callable[[Tensor], Tensor]


def score(hidden: Tensor, logits: Logits, slices: Seq[Slice]) -> list[Tensor]:
    """Log-probabilities of the prompt's tokens [rows], ids and values of the best [rows, count].

    `hidden` [rows, hidden_size] are the rows of all slices' `num_scored` leading tokens.
    """
    targets, count = [], 0
    for slice in slices:
        if num := slice.num_scored:
            targets += slice.sequence.tokens[slice.start + 1 : slice.start + 1 + num]
            count = max(count, slice.sequence.sampling.prompt_logprobs or 0)
    wanted = to_device(targets, hidden.device)
    parts = [
        describe(logits(hidden[rows]).log_softmax(-1), wanted[rows], count)
        for rows in _row_ranges(len(hidden))
    ]
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def score_along(hidden: Tensor, logits: Logits) -> None:
    """A rank's part of `score`, where rank 0 has the sequences."""
    for rows in _row_ranges(len(hidden)):
        logits(hidden[rows])


def _row_ranges(num_rows: int) -> Iterator[slice]:
    return (slice(begin, begin + MAX_ROWS) for begin in range(0, num_rows, MAX_ROWS))


@dataclass(frozen=True, slots=True)
class WithScores:
    """A step's outcomes with scores; `counts`: rows and number of best tokens of each slice."""

    collect: Collect
    counts: Seq[tuple[int, int]]
    host_copy: PendingHostCopy

    def __call__(self) -> list[Outcome]:
        outcomes = self.collect()
        rows = zip(*(tensor.tolist() for tensor in self.host_copy.wait()), strict=True)
        made: list[Outcome] = []
        for outcome, (num_rows, num_best) in zip(outcomes, self.counts, strict=True):
            scores = tuple(
                TokenLogprob(own, tuple(ids[:num_best]), tuple(values[:num_best]))
                for _, (own, ids, values) in zip(range(num_rows), rows, strict=False)
            )
            made.append(Scored(drawn(outcome), scores) if scores else outcome)
        return made
