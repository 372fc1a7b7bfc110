"""Steps as rank 0 tells them: of a sequence that was in the step before, only what is new; pure."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from engine.model.step_inputs import StepSlice
from engine.runner import Slice
from wire.identity import AttemptId
from worker.ranks.orders import RunSlice, RunStep


@dataclass(frozen=True, slots=True)
class _SentSequence:
    """What the other ranks know of a sequence: its place in the step, and its table up to there."""

    number: int
    blocks: Seq[int]
    num_blocks: int
    last: int | None

    def goes_on(self, blocks: Seq[int]) -> bool:
        """An engine appends to the table of a sequence that runs, and gives it another list when it
        runs again. (Comparing 256 tables of 256 blocks takes longer than all the rest.)"""
        if blocks is not self.blocks or len(blocks) < self.num_blocks:
            return False
        return self.num_blocks == 0 or blocks[self.num_blocks - 1] == self.last


class StepWriter:
    """Remembers one step, as its reader does: whatever else a sequence was in is told anew."""

    def __init__(self) -> None:
        self._told: dict[AttemptId, _SentSequence] = {}

    def write(self, pieces: Seq[StepSlice], slices: Seq[Slice], *, by_layers: bool) -> RunStep:
        """Of a step's pieces, which are made of these slices."""
        before, self._told = self._told, {}
        told = []
        for number, (piece, slice) in enumerate(zip(pieces, slices, strict=True)):
            attempt_id, blocks = slice.sequence.attempt_id, piece.blocks
            told.append(_tell(piece, before.get(attempt_id)))
            last = blocks[-1] if blocks else None
            self._told[attempt_id] = _SentSequence(number, blocks, len(blocks), last)
        return RunStep(told, by_layers)


def _tell(piece: StepSlice, known: _SentSequence | None) -> RunSlice:
    if known is not None and not known.goes_on(piece.blocks):
        known = None
    return RunSlice(
        piece.start,
        piece.count,
        list(piece.tokens),
        piece.source,
        piece.num_prompt,
        piece.num_sampled,
        None if known is None else known.number,
        list(piece.blocks[0 if known is None else known.num_blocks :]),
        piece.num_scored,
    )


class StepReader:
    """Its pieces are good until the next step is read."""

    def __init__(self) -> None:
        self._tables: list[list[int]] = []

    def read(self, step: RunStep) -> list[StepSlice]:
        self._tables = [self._table(piece) for piece in step.pieces]
        return [
            StepSlice(
                it.start,
                it.count,
                table,
                it.tokens,
                it.source,
                it.num_prompt,
                it.num_sampled,
                it.num_scored,
            )
            for it, table in zip(step.pieces, self._tables, strict=True)
        ]

    def _table(self, piece: RunSlice) -> list[int]:
        if piece.before is None:
            return piece.blocks
        table = self._tables[piece.before]
        table += piece.blocks
        return table
