"""Block tables on the host that live as long as their sequences, and grow with them.

A decode step's tables differ from those of the step before by a few entries: a sequence needs a
new block once in `block_size` steps. Rebuilding them from Python lists took most of a step's time
on the host (256 sequences of 2,000 tokens: 3 ms).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.attention.backend import SequenceRows

Int32s = NDArray[np.int32]


@dataclass(slots=True)
class _Slot:
    """The column of one sequence, which is known by its list of blocks: the engine appends to a
    running sequence's list, and makes a new one when it runs again."""

    column: int
    blocks: Seq[int]
    num_entered: int


class PersistentTables:
    """A column a sequence, whatever row it has in a step; columns of former ones are reused."""

    def __init__(self, num_columns: int, most_blocks: int) -> None:
        """As many columns as sequences in one step, as many entries as the longest table's."""
        self._entries: Int32s = np.zeros((most_blocks, num_columns), dtype=np.int32)
        self._slots: dict[int, _Slot] = {}
        self._free = list(range(num_columns))[::-1]

    def columns(self, sequences: Seq[SequenceRows]) -> list[int]:
        """Each sequence's column, in which all of its blocks are entered."""
        slots, columns = self._slots, []
        for sequence in sequences:
            blocks = sequence.blocks
            slot = slots.get(id(blocks))
            if slot is None or slot.num_entered != len(blocks):
                slot = self._enter(blocks, sequences)
            columns.append(slot.column)
        return columns

    def take(self, columns: list[int], into: Int32s) -> None:
        """Copy the first entries of these columns to `into` [entries, columns]."""
        first, count = columns[0], len(columns)
        entries = self._entries[: len(into)]
        if columns == list(range(first, first + count)):
            into[:] = entries[:, first : first + count]
        else:
            into[:] = entries.take(columns, axis=1)

    def _enter(self, blocks: Seq[int], sequences: Seq[SequenceRows]) -> _Slot:
        """Append the blocks that are new, all of them for a list that has no column yet."""
        slot = self._slots.get(id(blocks))
        if slot is None:
            if not self._free:
                self._forget_all_but(sequences)
            slot = self._slots[id(blocks)] = _Slot(self._free.pop(), blocks, 0)
        begin = slot.num_entered if slot.num_entered <= len(blocks) else 0
        self._entries[begin : len(blocks), slot.column] = blocks[begin:]
        slot.num_entered = len(blocks)
        return slot

    def _forget_all_but(self, sequences: Seq[SequenceRows]) -> None:
        """Free the columns of sequences that ended, or wait, or are elsewhere."""
        kept = {id(sequence.blocks) for sequence in sequences}
        for key in self._slots.keys() - kept:
            self._free.append(self._slots.pop(key).column)
        self._free.sort(reverse=True)
