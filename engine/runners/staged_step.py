"""A decode step's inputs on the host, laid out as a recorded graph reads them on the device."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from engine.model.step_inputs import StepSlice
from engine.runners.persistent_tables import Int32s

TOKEN, SOURCE, POSITION, LENGTH = range(4)
"""Rows of a step's numbers. The source says where a token is found: in the draws of the step
before, or, behind those, among this step's tokens that the host knows."""
NUM_NUMBERS = 4
INT32S = 2
"""Parts of one int64."""


class StagedStep:
    """`memory` is `numbers` int64 [NUM_NUMBERS, rows], then `tables` int32 [width, rows].

    Rows without a sequence are at position 0 of the spare block.
    """

    def __init__(self, rows: int, width: int, spare_block: int, num_drawn: int) -> None:
        """`num_drawn` draws stand before the step's tokens."""
        begin = INT32S * NUM_NUMBERS * rows
        self.memory: Int32s = np.empty(begin + width * rows, dtype=np.int32)
        self.numbers = self.memory[:begin].view(np.int64).reshape(NUM_NUMBERS, rows)
        self.tables = self.memory[begin:].reshape(width, rows)
        self._num_drawn = num_drawn
        self.numbers[:] = 0
        self.numbers[SOURCE] = num_drawn  # a known token
        self.numbers[LENGTH] = 1
        self.tables[0] = spare_block

    def enter(self, step_slices: Seq[StepSlice], positions: Seq[int]) -> bool:
        """Enter tokens and positions of the first rows. True when some tokens are still drawn."""
        numbers = self.numbers[:, : len(step_slices)]
        sources = [each.source for each in step_slices]
        if None in sources:
            numbers[TOKEN] = [each.tokens[0] if each.tokens else 0 for each in step_slices]
            known = enumerate(sources, self._num_drawn)
            numbers[SOURCE] = [place if source is None else source for place, source in known]
        else:
            numbers[SOURCE] = np.array(sources)
        numbers[POSITION] = positions
        numbers[LENGTH] = [each.num_prompt for each in step_slices]
        np.maximum(numbers[LENGTH], numbers[POSITION] + 1, out=numbers[LENGTH])
        return sources.count(None) < len(sources)

    @property
    def ends(self) -> np.ndarray:
        """Tokens that each row sees, int64 [rows]."""
        ends: np.ndarray = self.numbers[POSITION] + 1
        return ends
