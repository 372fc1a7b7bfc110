"""Attention with PyTorch's operations on every device, and with a GPU's kernels in their place.

Sequences with one token in a step are decode rows, all others are chunks of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import cached_property

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows, token_slots_of
from engine.attention.decode_rows import DecodeRows, plan_decode_rows
from engine.attention.gpu_kernels import GpuKernels
from engine.attention.paged_cache import PagedCache
from engine.attention.paged_rows import PagedRows, RowTables, plan_row_tables
from engine.attention.prefill_chunk import PrefillChunk, plan_prefill_chunks
from engine.attention.scaled_cache import paged_cache
from engine.attention.step_rows import PlacedRows, split_step
from engine.attention.varlen_chunks import VarlenChunks, plan_varlen_chunks

Part = PagedRows | DecodeRows | VarlenChunks | PrefillChunk


class TorchBackend:
    """Attends over `cache`; `windows` holds each layer's sliding window, None for none.

    Queries, keys and values come in `dtype`, which is the cache's own when None.
    """

    def __init__(
        self,
        cache: Tensor,
        windows: Seq[int | None],
        dtype: torch.dtype | None = None,
        scales: Tensor | None = None,
        kernels: GpuKernels | None = None,
    ) -> None:
        self._tensor = cache
        self._cache = paged_cache(cache, dtype, scales)
        self._windows = tuple(windows)
        self._kernels = kernels or GpuKernels()

    def prepare(self, sequences: Seq[SequenceRows]) -> TorchBatch:
        """Prepare a step over these sequences."""
        return TorchBatch(sequences, self._tensor, self._cache, self._windows, self._kernels)


class TorchBatch:
    """One step. Its index tensors and masks are made when a layer first asks for attention."""

    def __init__(
        self,
        sequences: Seq[SequenceRows],
        cache: Tensor,
        paged: PagedCache,
        windows: Seq[int | None],
        kernels: GpuKernels,
    ) -> None:
        self.sequences = sequences
        self.cache = cache
        self.scales = paged.scales
        self._paged = paged
        self._windows = windows
        self._kernels = kernels

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See engine.attention.backend.AttentionBatch.attend."""
        self._paged.write(layer, *self.token_slots, key, value)
        return self.read(layer, query)

    def read(self, layer: int, query: Tensor) -> Tensor:
        """See engine.attention.backend.AttentionBatch.read."""
        output = torch.empty_like(query)
        for part in self._parts[self._windows[layer]]:
            part.attend(self._paged, layer, query, output)
        return output

    @cached_property
    def token_slots(self) -> tuple[Tensor, Tensor]:
        """Blocks and slots of the step's tokens, each [tokens]; blocks that it begins are cleared.

        Cleared, because attention reads whole blocks and masks what lies beyond a sequence's
        end: if an earlier owner left NaN there, masking would not hide it.
        """
        size = self._paged.block_size
        begun = (s for s in self.sequences if s.end % size and s.end // size * size >= s.start)
        self._paged.clear([sequence.blocks[sequence.end // size] for sequence in begun])
        if self.scales is not None:
            self._paged.begin(
                [block for sequence in self.sequences for block in sequence.begun(size)]
            )
        blocks, slots = self._paged.tensor(token_slots_of(self.sequences, size))
        return blocks, slots

    @cached_property
    def _parts(self) -> dict[int | None, list[Part]]:
        """Groups of rows that attend together, for each sliding window."""
        return {
            window: [*self._row_parts(window), *self._chunk_parts(window)]
            for window in set(self._windows)
        }

    def _row_parts(self, window: int | None) -> Seq[Part]:
        rows, _ = self._split
        if self._kernels.paged_decode:
            return [PagedRows(self._row_tables, window)] if rows else []
        return plan_decode_rows(rows, window, self._paged)

    def _chunk_parts(self, window: int | None) -> Seq[Part]:
        _, chunks = self._split
        if self._kernels.varlen:
            return plan_varlen_chunks(chunks, window, self._paged)
        return plan_prefill_chunks(chunks, window, self._paged)

    @cached_property
    def _row_tables(self) -> RowTables:
        """Block tables that the rows of all windows share."""
        return plan_row_tables(self._split[0], self._paged)

    @cached_property
    def _split(self) -> tuple[list[PlacedRows], list[PlacedRows]]:
        return split_step(self.sequences)
