"""Decode steps as CUDA graphs, one for each capture size, with all inputs in one buffer.

The buffer begins with the draws of the step before; there follow a step's numbers, int64, and its
block tables, int32, one a column, which are one copy from the host.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch, GraphAttention
from engine.model.step_inputs import LastDrawn, StepSlice
from engine.runners.captured_step import Capture, Compute
from engine.runners.persistent_tables import PersistentTables
from engine.runners.staged_step import INT32S, LENGTH, NUM_NUMBERS, POSITION, SOURCE, StagedStep

Forward = Callable[[Tensor, Tensor, Tensor, AttentionBatch], Tensor]
"""Token ids, positions, RoPE lengths [rows], and a batch -> logits [rows, vocab_size]."""


def capture_sizes(most: int) -> list[int]:
    """1, 2, 4, 8, then in steps of 8 up to `most`."""
    return sorted({size for size in (1, 2, 4, *range(8, most, 8)) if size < most} | {most})


class DecodeGraphs:
    """Replays steps of one token a sequence. Padding rows write to a block that nobody owns."""

    def __init__(
        self,
        forward: Forward,
        attention: GraphAttention,
        capture: Capture,
        device: torch.device,
        *,
        most_rows: int,
        most_blocks: int,
        spare_block: int,
        block_size: int,
    ) -> None:
        """`most_blocks` is the longest block table."""
        self._forward = forward
        self._attention = attention
        self._capture = capture
        self._device = device
        self._sizes = capture_sizes(most_rows)
        self._most_rows = most_rows
        self._most_blocks = most_blocks
        self._spare_block = spare_block
        self._block_size = block_size
        size = (INT32S * (1 + NUM_NUMBERS) + most_blocks) * most_rows
        self._buffer = torch.zeros(size, dtype=torch.int32, device=device)
        self._drawn = self._buffer[: INT32S * most_rows].view(torch.int64)
        self._tables = PersistentTables(most_rows, most_blocks)
        self._replays: dict[tuple[int, int], Compute] = {}

    def capture_all(self) -> None:
        """Capture every size, the largest first, whose memory the others share."""
        for rows in reversed(self._sizes):
            width = self._attention.width(self._most_blocks, self._most_blocks)
            self._replay(rows, width)

    def fits(self, step_slices: Seq[StepSlice], last: LastDrawn) -> bool:
        """True when `run` can compute this step."""
        if max(len(step_slices), len(last.tokens)) > self._most_rows:
            return False
        for each in step_slices:  # noqa: SIM110 (half the time of a generator's)
            if each.count != 1 or each.num_sampled != 1:
                return False
        return True

    def run(self, step_slices: Seq[StepSlice], last: LastDrawn) -> Tensor:
        """Logits [slices, vocab_size], valid until the next step."""
        rows = self._sizes[bisect.bisect_left(self._sizes, len(step_slices))]
        positions = [each.start for each in step_slices]
        needed = max(positions) // self._block_size + 1
        replay = self._replay(rows, self._attention.width(needed, self._most_blocks))
        staged = self._staged(rows, needed)
        if staged.enter(step_slices, positions):
            self._drawn[: len(last.tokens)].copy_(last.tokens)
        columns = self._tables.columns(step_slices)
        self._tables.take(columns, staged.tables[:, : len(columns)])
        self._start(staged)
        return replay()[: len(step_slices)]

    def _replay(self, rows: int, width: int) -> Compute:
        """The captured step of a size, captured now if it is the first."""
        replay = self._replays.get((rows, width))
        if replay is None:
            self._start(self._staged(rows, 1))
            replay = self._capture(self._computation(rows, width))
            self._replays[rows, width] = replay
        return replay

    def _computation(self, rows: int, width: int) -> Compute:
        most = self._most_rows
        numbers = self._buffer[: INT32S * (most + NUM_NUMBERS * rows)].view(torch.int64)
        step = numbers[most:].view(NUM_NUMBERS, rows)
        tables = self._buffer[INT32S * len(numbers) :][: width * rows].view(width, rows)
        drawn_and_known = numbers[: most + rows]

        def compute() -> Tensor:
            ids = drawn_and_known.index_select(0, step[SOURCE])
            batch = self._attention.batch(tables, step[POSITION])
            return self._forward(ids, step[POSITION], step[LENGTH], batch)

        return compute

    def _staged(self, rows: int, width: int) -> StagedStep:
        return StagedStep(rows, width, self._spare_block, self._most_rows)

    def _start(self, staged: StagedStep) -> None:
        """Copy a step's inputs behind the draws, in one copy through pinned memory; plan it."""
        host = torch.from_numpy(staged.memory)
        if self._device.type == "cuda":
            host = host.pin_memory()
        begin = INT32S * self._most_rows
        self._buffer[begin : begin + len(host)].copy_(host, non_blocking=True)
        self._attention.plan(staged.ends, staged.tables)
