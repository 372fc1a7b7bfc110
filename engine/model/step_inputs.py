"""What a step's model computes on, and the tokens that only the device knows."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.device.to_device import to_device
from engine.runner import Slice
from engine.sequence import Sequence
from wire.identity import AttemptId


class StepSlice(SequenceRows, frozen=True, gc=False):
    """A span with its tokens: all that computing a slice needs to know of its sequence.

    Of a token that the step before draws there is only the row in which it does: `source`.
    """

    tokens: Seq[int]
    source: int | None
    num_prompt: int
    num_sampled: int
    num_scored: int = 0
    """See engine.runner.Slice."""


@dataclass(frozen=True)
class LastDrawn:
    """The tokens [rows] that the last launched step draws, where they are drawn, and whose."""

    tokens: Tensor
    sequences: Seq[Sequence]

    def piece(self, slice: Slice) -> StepSlice:
        sequence, start, count = slice.sequence, slice.start, slice.count
        tokens = slice.tokens
        source = None if tokens else self._row_of[sequence.attempt_id]
        return StepSlice(
            start,
            count,
            sequence.blocks,
            tokens,
            source,
            sequence.num_prompt,
            slice.num_sampled,
            slice.num_scored,
        )

    @cached_property
    def _row_of(self) -> dict[AttemptId, int]:
        return {sequence.attempt_id: row for row, sequence in enumerate(self.sequences)}

    def fill(self, token_ids: Tensor, unknown: Seq[tuple[int, int]]) -> Tensor:
        """`token_ids` [tokens] with the drawn ones in the places of those that are unknown."""
        into, rows = to_device(list(zip(*unknown, strict=True)), token_ids.device)
        return token_ids.index_copy(0, into, self.tokens.index_select(0, rows))


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`rows`: token ids, positions, and what RoPE takes for the lengths of their sequences.

    `unknown`: the places of tokens that the step before draws, which are 0 here, and their rows.
    """

    rows: tuple[list[int], list[int], list[int]]
    unknown: list[tuple[int, int]]


def step_inputs(pieces: Seq[StepSlice]) -> StepInputs:
    """The pieces' tokens, one after the other."""
    token_ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    unknown: list[tuple[int, int]] = []
    for piece in pieces:
        start, end, num_prompt = piece.start, piece.start + piece.count, piece.num_prompt
        if piece.source is None:
            token_ids += piece.tokens
        else:
            unknown.append((len(token_ids), piece.source))
            token_ids.append(0)
        if piece.count == 1:
            positions.append(start)
            lengths.append(end if end > num_prompt else num_prompt)
        else:
            positions += range(start, end)
            lengths += (max(reached, num_prompt) for reached in range(start + 1, end + 1))
    return StepInputs((token_ids, positions, lengths), unknown)


def scored_rows(pieces: Seq[StepSlice]) -> list[int]:
    """Where the tokens are whose successors' log-probabilities are wanted."""
    rows: list[int] = []
    begin = 0
    for piece in pieces:
        rows += range(begin, begin + piece.num_scored)
        begin += piece.count
    return rows


def last_rows(pieces: Seq[StepSlice]) -> list[int]:
    """The step's rows that are sampled from, in order."""
    rows: list[int] = []
    end = 0
    for piece in pieces:
        end += piece.count
        rows += range(end - piece.num_sampled, end)
    return rows
