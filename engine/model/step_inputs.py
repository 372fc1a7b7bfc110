"""A step's inputs for the model: token ids, positions, and tokens that only the device knows."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.device.to_device import to_device
from engine.runner import Slice
from engine.sequence import Sequence


class StepSlice(SequenceRows, frozen=True, gc=False):
    """A slice with everything that the model needs of its sequence, also on other ranks.

    `source`: row of the previous step's draws that holds the slice's token while the host does not
    know it; None when `tokens` are known.
    """

    tokens: Seq[int]
    source: int | None
    num_prompt: int
    num_sampled: int
    num_scored: int = 0
    """See engine.runner.Slice."""


@dataclass(frozen=True)
class LastDrawn:
    """The draws [rows] of the last launched step on the device, and the sequence of each row."""

    tokens: Tensor
    sequences: Seq[Sequence]

    def step_slices(self, slices: Seq[Slice]) -> list[StepSlice]:
        """One loop without calls for rows of one token: most steps have hundreds of these."""
        made, row_of = [], self._row_of
        for slice in slices:
            sequence, start = slice.sequence, slice.start
            if slice.count == 1 and not slice.drafts and sequence.sampling.prompt_logprobs is None:
                tokens = sequence.tokens
                num_known = len(tokens)
                known = start < num_known
                made.append(
                    StepSlice(
                        start,
                        1,
                        sequence.blocks,
                        (tokens[start],) if known else (),
                        None if known else row_of[id(sequence)],
                        sequence.num_prompt,
                        1 if start + 1 == num_known + sequence.num_unknown else 0,
                    )
                )
            else:
                made.append(self._step_slice(slice))
        return made

    def _step_slice(self, slice: Slice) -> StepSlice:
        sequence, tokens = slice.sequence, slice.tokens
        return StepSlice(
            slice.start,
            slice.count,
            sequence.blocks,
            tokens,
            None if tokens else self._row_of[id(sequence)],
            sequence.num_prompt,
            slice.num_sampled,
            slice.num_scored,
        )

    @cached_property
    def _row_of(self) -> dict[int, int]:
        """Rows by the sequences' identity, whose names take longer to hash."""
        return {id(sequence): row for row, sequence in enumerate(self.sequences)}

    def fill(self, token_ids: Tensor, unknown: Seq[tuple[int, int]]) -> Tensor:
        """`token_ids` [tokens] with the drawn tokens in the places of unknown ones."""
        into, rows = to_device(list(zip(*unknown, strict=True)), token_ids.device)
        return token_ids.index_copy(0, into, self.tokens.index_select(0, rows))


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`rows`: token ids, positions, and the sequence lengths that RoPE scales by.

    `unknown`: indices of tokens that the step before draws, which are 0 here, and their sources.
    """

    rows: tuple[list[int], list[int], list[int]]
    unknown: list[tuple[int, int]]


def step_inputs(slices: Seq[StepSlice]) -> StepInputs:
    """The inputs of a step of these slices, in their order."""
    token_ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    unknown: list[tuple[int, int]] = []
    for slice in slices:
        start, end, num_prompt = slice.start, slice.start + slice.count, slice.num_prompt
        if slice.source is None:
            token_ids += slice.tokens
        else:
            unknown.append((len(token_ids), slice.source))
            token_ids.append(0)
        if slice.count == 1:
            positions.append(start)
            lengths.append(end if end > num_prompt else num_prompt)
        else:
            positions += range(start, end)
            lengths += (max(reached, num_prompt) for reached in range(start + 1, end + 1))
    return StepInputs((token_ids, positions, lengths), unknown)


def scored_rows(slices: Seq[StepSlice]) -> list[int]:
    """Rows of the step whose successors' log-probabilities are wanted."""
    rows: list[int] = []
    begin = 0
    for slice in slices:
        rows += range(begin, begin + slice.num_scored)
        begin += slice.count
    return rows


def last_rows(slices: Seq[StepSlice]) -> list[int]:
    """The step's rows that are sampled from, in order."""
    rows: list[int] = []
    end = 0
    for slice in slices:
        end += slice.count
        rows += range(end - slice.num_sampled, end)
    return rows
