"""Attention of decode steps in CUDA graphs: block tables and positions stay at one address.

A table is a column: [width, rows], int32. A row's position is that of its token, int64 [rows].
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.attention.backend import SequenceRows
from engine.attention.mask import additive, visible
from engine.attention.paged_cache import PagedCache
from engine.attention.paged_rows import SharedSplits, attend_paged
from engine.attention.scaled_cache import paged_cache


class _Tables:
    """Needs no plan beside the tables; see engine.attention.backend.GraphAttention."""

    def __init__(
        self,
        cache: Tensor,
        windows: Seq[int | None],
        dtype: torch.dtype,
        scales: Tensor | None = None,
    ) -> None:
        self._cache = cache
        self._windows = windows
        self._paged = paged_cache(cache, dtype, scales)

    def plan(self, ends: np.ndarray, tables: np.ndarray) -> None:
        """There is nothing to plan."""


class TorchTables(_Tables):
    """PyTorch's attention over all blocks of the table's width, which is a power of two."""

    def width(self, num_blocks: int, most: int) -> int:
        return min(most, 1 << (num_blocks - 1).bit_length())

    def batch(self, tables: Tensor, positions: Tensor) -> TableBatch:
        return GatheredBatch(self._cache, self._windows, self._paged, tables, positions)


class TritonTables(_Tables):
    """The Triton kernel, which reads each sequence's own blocks only."""

    def width(self, num_blocks: int, most: int) -> int:
        return most

    def batch(self, tables: Tensor, positions: Tensor) -> TableBatch:
        return KernelBatch(self._cache, self._windows, self._paged, tables, positions)


class TableBatch:
    """One decode row a sequence; see engine.attention.backend.AttentionBatch."""

    def __init__(
        self,
        cache: Tensor,
        windows: Seq[int | None],
        paged: PagedCache,
        tables: Tensor,
        positions: Tensor,
    ) -> None:
        self.sequences: Seq[SequenceRows] = ()
        self.cache = cache
        self.scales = paged.scales
        self._windows = windows
        self._paged = paged
        self._tables = tables
        self._positions = positions

    @cached_property
    def token_slots(self) -> tuple[Tensor, Tensor]:
        size = self._paged.block_size
        entry = torch.div(self._positions, size, rounding_mode="floor")
        blocks, slots = self._tables.gather(0, entry[None])[0].long(), self._positions % size
        self._paged.begin_rows(blocks, slots)
        return blocks, slots

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._paged.write(layer, *self.token_slots, key, value)
        return self.read(layer, query)

    def read(self, layer: int, query: Tensor) -> Tensor:
        raise NotImplementedError


class GatheredBatch(TableBatch):
    """A batch with PyTorch's attention over a gathered copy of the blocks."""

    def read(self, layer: int, query: Tensor) -> Tensor:
        paged, rows = self._paged, len(query)
        keys, values = paged.gather(layer, self._gather_index)
        grouped = query.reshape(rows, paged.num_kv_heads, -1, paged.head_size)
        seen = self._seen[self._windows[layer]]
        # A block's previous owner may have left NaN there, which no mask would hide.
        there = seen[:, None, :, None]
        keys, values = keys.where(there, 0), values.where(there, 0)
        mask = additive(seen, paged.dtype)[:, None, None]
        attended = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return attended.reshape(rows, -1, paged.head_size)

    @cached_property
    def _gather_index(self) -> Tensor:
        """Table entries behind a row's end are left over from other steps; they read block 0."""
        firsts = torch.arange(len(self._tables), device=self.cache.device) * self._paged.block_size
        there = firsts[:, None] <= self._positions
        return self._paged.gather_index(self._tables.where(there, 0).t().long())

    @cached_property
    def _seen(self) -> dict[int | None, Tensor]:
        """Visible keys [rows, keys] for each window."""
        keys = torch.arange(len(self._tables) * self._paged.block_size, device=self.cache.device)
        positions = self._positions[:, None]
        return {window: visible(positions, keys, window) for window in set(self._windows)}


class KernelBatch(TableBatch):
    """A batch with the paged Triton kernel."""

    def read(self, layer: int, query: Tensor) -> Tensor:
        placed = self._tables, self._positions, self._windows[layer], self._shared_splits
        return attend_paged(self._paged, layer, query, *placed)

    @cached_property
    def _shared_splits(self) -> SharedSplits:
        return {}
