"""Encodes steps for the other ranks: of a sequence in the previous step, only what is new; pure."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from engine.model.step_inputs import StepSlice
from engine.runner import Slice
from wire.identity import AttemptId
from worker.ranks.orders import RunSlice, RunStep


@dataclass(frozen=True, slots=True)
class _SentSequence:
    """What the other ranks know of a sequence: its number in the step, and its first blocks."""

    number: int
    blocks: Seq[int]
    num_blocks: int
    last: int | None

    def continues_in(self, blocks: Seq[int]) -> bool:
        """Whether these blocks begin with the known ones. The engine appends to a running
        sequence's list, and makes a new one when it runs again: so the lists are not compared,
        which would take longer than all the rest."""
        if blocks is not self.blocks or len(blocks) < self.num_blocks:
            return False
        return self.num_blocks == 0 or blocks[self.num_blocks - 1] == self.last


class StepWriter:
    """Remembers one step, as the reader does; sequences that were not in it are sent whole."""

    def __init__(self) -> None:
        self._sent: dict[AttemptId, _SentSequence] = {}

    def write(self, step_slices: Seq[StepSlice], slices: Seq[Slice], *, by_layers: bool) -> RunStep:
        """The order for a step, whose `step_slices` were made of `slices`."""
        before, self._sent = self._sent, {}
        run_slices = []
        for number, (piece, slice) in enumerate(zip(step_slices, slices, strict=True)):
            attempt_id, blocks = slice.sequence.attempt_id, piece.blocks
            run_slices.append(_run_slice(piece, before.get(attempt_id)))
            last = blocks[-1] if blocks else None
            self._sent[attempt_id] = _SentSequence(number, blocks, len(blocks), last)
        return RunStep(run_slices, by_layers)


def _run_slice(piece: StepSlice, known: _SentSequence | None) -> RunSlice:
    if known is not None and not known.continues_in(piece.blocks):
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
    """The slices of a step are valid until the next one is read."""

    def __init__(self) -> None:
        self._tables: list[list[int]] = []

    def read(self, step: RunStep) -> list[StepSlice]:
        self._tables = [self._table(piece) for piece in step.slices]
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
            for it, table in zip(step.slices, self._tables, strict=True)
        ]

    def _table(self, piece: RunSlice) -> list[int]:
        if piece.before is None:
            return piece.blocks
        table = self._tables[piece.before]
        table += piece.blocks
        return table
