"""Decode steps as CUDA graphs, one for each capture size, with all inputs in one buffer."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch, GraphAttention, SequenceRows
from engine.model.step_inputs import LastDrawn, StepSlice
from engine.runners.captured_step import Capture, Compute

Forward = Callable[[Tensor, Tensor, Tensor, AttentionBatch], Tensor]
"""Token ids, positions, RoPE lengths [rows], and a batch -> logits [rows, vocab_size]."""

TOKEN, SOURCE, POSITION, LENGTH, TABLE = range(5)
"""Rows of the buffer. The source is a row of the previous step's draws, or -1 where the token is
known; from TABLE on there are block tables, one a column."""
NO_SOURCE = -1


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
        self._most_blocks = most_blocks
        self._spare = SequenceRows(0, 1, (spare_block,))
        self._block_size = block_size
        size = (TABLE + most_blocks) * most_rows
        self._buffer = torch.zeros(size, dtype=torch.int32, device=device)
        self._drawn = torch.zeros(most_rows, dtype=torch.int64, device=device)
        self._replays: dict[tuple[int, int], Compute] = {}

    def capture_all(self) -> None:
        """Capture every size, the largest first, whose memory the others share."""
        for rows in reversed(self._sizes):
            width = self._attention.width(self._most_blocks, self._most_blocks)
            self._replay(rows, width)

    def fits(self, step_slices: Seq[StepSlice], last: LastDrawn) -> bool:
        """True when `run` can compute this step."""
        if max(len(step_slices), len(last.tokens)) > self._sizes[-1]:
            return False
        return all(step_slice.count == step_slice.num_sampled == 1 for step_slice in step_slices)

    def run(self, step_slices: Seq[StepSlice], last: LastDrawn) -> Tensor:
        """Logits [slices, vocab_size], valid until the next step."""
        rows = self._sizes[bisect.bisect_left(self._sizes, len(step_slices))]
        needed = max(-(-step_slice.end // self._block_size) for step_slice in step_slices)
        replay = self._replay(rows, self._attention.width(needed, self._most_blocks))
        staged = self._staged(step_slices, rows, needed)
        if self._enter(staged, step_slices):
            self._drawn[: len(last.tokens)].copy_(last.tokens)
        self._fill(staged)
        self._attention.plan(self._padded(step_slices, rows))
        return replay()[: len(step_slices)]

    def _replay(self, rows: int, width: int) -> Compute:
        """The captured step of a size, captured now if it is the first."""
        replay = self._replays.get((rows, width))
        if replay is None:
            sequences = self._padded([], rows)
            self._fill(self._staged([], rows, width))
            self._attention.plan(sequences)
            replay = self._capture(self._computation(rows, width))
            self._replays[rows, width] = replay
        return replay

    def _computation(self, rows: int, width: int) -> Compute:
        inputs = self._buffer[: (TABLE + width) * rows].view(TABLE + width, rows)
        drawn = self._drawn

        def compute() -> Tensor:
            source = inputs[SOURCE].long()
            taken = drawn.index_select(0, source.clamp(min=0))
            ids = torch.where(source == NO_SOURCE, inputs[TOKEN].long(), taken)
            positions, lengths = inputs[POSITION].long(), inputs[LENGTH].long()
            batch = self._attention.batch(inputs[TABLE:], positions)
            return self._forward(ids, positions, lengths, batch)

        return compute

    def _padded(self, sequences: Seq[SequenceRows], rows: int) -> list[SequenceRows]:
        return [*sequences, *[self._spare] * (rows - len(sequences))]

    def _staged(self, sequences: Seq[SequenceRows], rows: int, width: int) -> np.ndarray:
        """int32 [TABLE + width, rows]; padding rows are at position 0 of the spare block."""
        staged = np.zeros((TABLE + width, rows), dtype=np.int32)
        staged[SOURCE] = NO_SOURCE
        staged[LENGTH] = 1
        staged[TABLE:] = self._spare.blocks[0]
        for row, sequence in enumerate(sequences):
            count = -(-sequence.end // self._block_size)
            staged[TABLE : TABLE + count, row] = sequence.blocks[:count]
        return staged

    def _enter(self, staged: np.ndarray, step_slices: Seq[StepSlice]) -> bool:
        """Enter tokens and positions. True when some tokens are still being sampled."""
        any_unknown = False
        for row, step_slice in enumerate(step_slices):
            if step_slice.source is None:
                staged[TOKEN, row] = step_slice.tokens[0]
            else:
                staged[SOURCE, row] = step_slice.source
                any_unknown = True
            staged[POSITION, row] = step_slice.start
            staged[LENGTH, row] = max(step_slice.end, step_slice.num_prompt)
        return any_unknown

    def _fill(self, staged: np.ndarray) -> None:
        """Copy a step's inputs to the front of the buffer, in one copy through pinned memory."""
        host = torch.from_numpy(staged.reshape(-1))
        if self._device.type == "cuda":
            host = host.pin_memory()
        self._buffer[: len(host)].copy_(host, non_blocking=True)
