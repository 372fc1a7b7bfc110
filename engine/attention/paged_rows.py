"""Decode rows, one token a sequence, with the paged Triton kernel, which reads blocks in place."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.attention.paged_cache import PagedCache
from engine.attention.step_rows import PlacedRows, row_index
from engine.device.to_device import to_device

if TYPE_CHECKING:  # Triton is not everywhere
    from engine.cuda.splits import Splits

SharedSplits = dict["int | None", "Splits | None"]
"""How a step's contexts are split, for each window; filled by the first layer that has it."""


def attend_paged(
    cache: PagedCache,
    layer: int,
    query: Tensor,
    tables: Tensor,
    positions: Tensor,
    window: int | None,
    shared: SharedSplits,
) -> Tensor:
    """Attention of query [rows, heads, head_size] at `positions` [rows], each over its context.

    `tables` int32 [width, rows]: a column for each row's blocks. Nothing beyond a row's position is
    read, whatever a block's former owner left there.
    """
    from engine.cuda.operations import decode_split
    from engine.cuda.splits import split_contexts

    numbers, scales = cache.layer(layer)
    if window not in shared:
        shared[window] = split_contexts(query, numbers, tables, positions, window)
    return decode_split(query, numbers, scales, tables, positions, window, shared[window])


@dataclass(frozen=True, slots=True)
class RowTables:
    """Decode rows of a step, of any lengths; `rows` is a slice where they are neighbours."""

    rows: slice | Tensor
    tables: Tensor
    positions: Tensor
    shared: SharedSplits = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PagedRows:
    """Decode rows that attend within a window."""

    tables: RowTables
    window: int | None

    def attend(self, cache: PagedCache, layer: int, query: Tensor, output: Tensor) -> None:
        """Fill `output` at the rows from `query`, both [tokens, heads, head_size]."""
        rows, given = self.tables.rows, self.tables
        placed = given.tables, given.positions, self.window, given.shared
        output[rows] = attend_paged(cache, layer, query[rows], *placed)


def plan_row_tables(rows: Seq[PlacedRows], cache: PagedCache) -> RowTables:
    """The tables of a step's decode rows, in the order of the step."""
    return RowTables(
        rows=row_index(rows, cache.device),
        tables=to_device(_tables(rows, cache), cache.device, torch.int32),
        positions=cache.tensor([sequence.start for _, sequence in rows]),
    )


def _tables(rows: Seq[PlacedRows], cache: PagedCache) -> np.ndarray:
    """int32 [width, rows]; entries behind a row's last block are 0."""
    counts = [cache.num_blocks_for(sequence.end) for _, sequence in rows]
    tables = np.zeros((max(counts), len(rows)), dtype=np.int32)
    for column, ((_, sequence), count) in enumerate(zip(rows, counts, strict=True)):
        tables[:count, column] = sequence.blocks[:count]
    return tables
