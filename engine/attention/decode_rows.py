"""Decode rows, one token a sequence: rows of similar context share padded block tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.attention.backend import SequenceRows
from engine.attention.mask import additive, visible
from engine.attention.paged_cache import PagedCache


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """`rows` [n]: indices among the step's tokens; `mask` [n, 1, 1, keys].

    `unwritten` [2, m]: the gathered keys behind each row's end, pairs of its number and a place.
    """

    rows: Tensor
    gather_index: Tensor
    mask: Tensor
    unwritten: Tensor

    def attend(self, cache: PagedCache, layer: int, query: Tensor, output: Tensor) -> None:
        """Fill `output` at the rows from `query`, both [tokens, heads, head_size]."""
        keys, values = cache.gather(layer, self.gather_index)
        row, place = self.unwritten
        for part in (keys, values):
            part[row, :, place] = 0  # a former owner's NaN, which no mask would hide
        # The query heads that share a key head stand where query positions usually do.
        grouped = query[self.rows].view(len(self.rows), cache.num_kv_heads, -1, cache.head_size)
        attended = functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=self.mask
        )
        output[self.rows] = attended.reshape(len(self.rows), -1, cache.head_size)


def plan_decode_rows(
    rows: Seq[tuple[int, SequenceRows]], window: int | None, cache: PagedCache
) -> list[DecodeRows]:
    """Group (row, sequence) pairs such that padding at most doubles any block table."""
    groups: defaultdict[int, list[tuple[int, list[int], int]]] = defaultdict(list)
    for row, sequence in rows:
        first = 0 if window is None else max(0, sequence.end - window) // cache.block_size
        table = list(sequence.blocks[first : cache.num_blocks_for(sequence.end)])
        groups[len(table).bit_length()].append(
            (row, table, sequence.start - first * cache.block_size)
        )
    return [_plan_group(group, window, cache) for group in groups.values()]


def _plan_group(
    group: list[tuple[int, list[int], int]], window: int | None, cache: PagedCache
) -> DecodeRows:
    width = max(len(table) for _, table, _ in group)
    # Padding repeats the row's own first block: masked scores must come from finite keys, and a
    # row's own are the only ones it may depend on.
    tables = [table + table[:1] * (width - len(table)) for _, table, _ in group]
    positions = cache.tensor([position for _, _, position in group])
    behind = [range(position + 1, len(table) * cache.block_size) for _, table, position in group]
    unwritten = [
        [number for number, places in enumerate(behind) for _ in places],
        [place for places in behind for place in places],
    ]
    keys = torch.arange(width * cache.block_size, device=cache.device)
    mask = additive(visible(positions[:, None], keys, window), cache.dtype)
    return DecodeRows(
        rows=cache.tensor([row for row, _, _ in group]),
        gather_index=cache.gather_index(cache.tensor(tables)),
        mask=mask[:, None, None],
        unwritten=cache.tensor(unwritten),
    )
