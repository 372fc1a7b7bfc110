"""What a step's model computes on, and the tokens that only the device knows."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from torch import Tensor

from engine.runner import Slice
from engine.sequence import Sequence
from engine.staging import to_device
from wire.identity import Leg


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`rows`: token ids, positions, and what RoPE takes for the lengths of their sequences.

    `unknown`: the places of tokens that the step before draws, which are 0 here, and whose.
    """

    rows: tuple[list[int], list[int], list[int]]
    unknown: list[tuple[int, Leg]]


def step_inputs(slices: Seq[Slice]) -> StepInputs:
    """The slices' tokens, one after the other."""
    token_ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    unknown: list[tuple[int, Leg]] = []
    for slice in slices:
        sequence, start = slice.sequence, slice.start
        if slice.count > 1:
            token_ids += sequence.tokens[start : slice.end]
            positions += range(start, slice.end)
            lengths += (max(end, sequence.num_prompt) for end in range(start + 1, slice.end + 1))
            continue
        if start < len(sequence.tokens):
            token_ids.append(sequence.tokens[start])
        else:
            unknown.append((len(token_ids), sequence.leg))
            token_ids.append(0)
        positions.append(start)
        lengths.append(max(start + 1, sequence.num_prompt))
    return StepInputs((token_ids, positions, lengths), unknown)


@dataclass(frozen=True, slots=True)
class LastDrawn:
    """The tokens [rows] that the last launched step draws, where they are drawn, and whose."""

    tokens: Tensor
    row_of: dict[Leg, int]

    @staticmethod
    def of(sequences: Seq[Sequence], tokens: Tensor) -> LastDrawn:
        return LastDrawn(tokens, {sequence.leg: row for row, sequence in enumerate(sequences)})

    def fill(self, token_ids: Tensor, unknown: Seq[tuple[int, Leg]]) -> Tensor:
        """`token_ids` [tokens] with the drawn ones in the places of those that are unknown."""
        places = [(place, self.row_of[leg]) for place, leg in unknown]
        into, rows = to_device(list(zip(*places, strict=True)), token_ids.device)
        return token_ids.index_copy(0, into, self.tokens.index_select(0, rows))
