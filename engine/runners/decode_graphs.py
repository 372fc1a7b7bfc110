"""Decode steps as graphs, one for each size on a ladder; what they read lies in one buffer."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch, GraphAttention, SequenceRows
from engine.model.step_inputs import LastDrawn, StepSlice
from engine.runners.captured_step import Compute, Record

Forward = Callable[[Tensor, Tensor, Tensor, AttentionBatch], Tensor]
"""Token ids, positions, RoPE lengths [rows], and a batch -> logits [rows, vocab_size]."""

TOKEN, SOURCE, POSITION, LENGTH, TABLE = range(5)
"""Rows of the buffer. The source is a row of what the step before draws, or -1 where the token is
known; from the last one on it holds block tables, a column each."""
NO_SOURCE = -1


def ladder(most: int) -> list[int]:
    """1, 2, 4, 8, then in steps of 8 up to `most`."""
    return sorted({rung for rung in (1, 2, 4, *range(8, most, 8)) if rung < most} | {most})


class DecodeGraphs:
    """Steps of one token a sequence. Rows that are left over write to a block that nobody owns."""

    def __init__(
        self,
        forward: Forward,
        attention: GraphAttention,
        record: Record,
        device: torch.device,
        *,
        most_rows: int,
        most_blocks: int,
        spare_block: int,
        block_size: int,
    ) -> None:
        """A sequence has at most so many blocks."""
        self._forward = forward
        self._attention = attention
        self._record = record
        self._device = device
        self._ladder = ladder(most_rows)
        self._most_blocks = most_blocks
        self._spare = SequenceRows(0, 1, (spare_block,))
        self._block_size = block_size
        size = (TABLE + most_blocks) * most_rows
        self._buffer = torch.zeros(size, dtype=torch.int32, device=device)
        self._drawn = torch.zeros(most_rows, dtype=torch.int64, device=device)
        self._replays: dict[tuple[int, int], Compute] = {}

    def record_all(self) -> None:
        """Every size now, the largest first, whose memory the others share."""
        for rows in reversed(self._ladder):
            width = self._attention.width(self._most_blocks, self._most_blocks)
            self._replay(rows, width)

    def fits(self, pieces: Seq[StepSlice], last: LastDrawn) -> bool:
        """True when this is a step for `run`."""
        if max(len(pieces), len(last.tokens)) > self._ladder[-1]:
            return False
        return all(piece.count == piece.num_sampled == 1 for piece in pieces)

    def run(self, pieces: Seq[StepSlice], last: LastDrawn) -> Tensor:
        """Logits [pieces, vocab_size], valid until the next step."""
        rows = self._ladder[bisect.bisect_left(self._ladder, len(pieces))]
        needed = max(-(-piece.end // self._block_size) for piece in pieces)
        replay = self._replay(rows, self._attention.width(needed, self._most_blocks))
        staged = self._staged(pieces, rows, needed)
        if self._enter(staged, pieces):
            self._drawn[: len(last.tokens)].copy_(last.tokens)
        self._fill(staged)
        self._attention.plan(self._padded(pieces, rows))
        return replay()[: len(pieces)]

    def _replay(self, rows: int, width: int) -> Compute:
        """Recorded when a size is needed for the first time."""
        replay = self._replays.get((rows, width))
        if replay is None:
            spans = self._padded([], rows)
            self._fill(self._staged([], rows, width))
            self._attention.plan(spans)
            replay = self._record(self._computation(rows, width))
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

    def _padded(self, spans: Seq[SequenceRows], rows: int) -> list[SequenceRows]:
        return [*spans, *[self._spare] * (rows - len(spans))]

    def _staged(self, spans: Seq[SequenceRows], rows: int, width: int) -> np.ndarray:
        """int32 [TABLE + width, rows]; what no sequence fills is a row at position 0."""
        staged = np.zeros((TABLE + width, rows), dtype=np.int32)
        staged[SOURCE] = NO_SOURCE
        staged[LENGTH] = 1
        staged[TABLE:] = self._spare.blocks[0]
        for row, span in enumerate(spans):
            count = -(-span.end // self._block_size)
            staged[TABLE : TABLE + count, row] = span.blocks[:count]
        return staged

    def _enter(self, staged: np.ndarray, pieces: Seq[StepSlice]) -> bool:
        """Tokens and positions. True when some tokens are still being drawn."""
        any_unknown = False
        for row, piece in enumerate(pieces):
            if piece.source is None:
                staged[TOKEN, row] = piece.tokens[0]
            else:
                staged[SOURCE, row] = piece.source
                any_unknown = True
            staged[POSITION, row] = piece.start
            staged[LENGTH, row] = max(piece.end, piece.num_prompt)
        return any_unknown

    def _fill(self, staged: np.ndarray) -> None:
        """One copy, through pinned memory: a step's numbers lie at the front of the buffer."""
        host = torch.from_numpy(staged.reshape(-1))
        if self._device.type == "cuda":
            host = host.pin_memory()
        self._buffer[: len(host)].copy_(host, non_blocking=True)
