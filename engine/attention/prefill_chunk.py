"""Prefill chunks: each sequence attends by itself, in tiles of queries."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.attention.backend import SequenceRows
from engine.attention.mask import additive, visible
from engine.attention.paged_cache import PagedCache

TILE = 256
"""Queries that attend together; tiles begin at multiples of it, whatever the chunk."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows [begin, end) of the step against keys [key_begin, key_end) of those gathered.

    `mask` [queries, keys] is a view of a mask that all tiles of the step share.
    """

    begin: int
    end: int
    key_begin: int
    key_end: int
    mask: Tensor


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """One chunk: the context that its window reaches, `num_keys` tokens, and its tiles."""

    gather_index: Tensor
    num_keys: int
    tiles: tuple[Tile, ...]

    def attend(self, cache: PagedCache, layer: int, query: Tensor, output: Tensor) -> None:
        """Fill `output` at the chunk's rows from `query`, both [tokens, heads, head_size]."""
        keys, values = (part[0][:, None] for part in cache.gather(layer, self.gather_index))
        for part in (keys, values):
            part[:, :, self.num_keys :] = 0  # a former owner's NaN, which no mask would hide
        for tile in self.tiles:
            rows = slice(tile.begin, tile.end)
            grouped = by_kv_head(query[rows], cache.num_kv_heads)
            shape = (-1, grouped.shape[1], -1, -1)
            attended = functional.scaled_dot_product_attention(
                grouped,
                keys[:, :, tile.key_begin : tile.key_end].expand(shape),
                values[:, :, tile.key_begin : tile.key_end].expand(shape),
                attn_mask=tile.mask,
            )
            output[rows] = attended.permute(2, 0, 1, 3).flatten(1, 2)


def by_kv_head(query: Tensor, num_kv_heads: int) -> Tensor:
    """[tokens, heads, head_size] -> [kv_heads, heads that share one, tokens, head_size]"""
    tokens, _, head_size = query.shape
    return query.view(tokens, num_kv_heads, -1, head_size).permute(1, 2, 0, 3)


def plan_prefill_chunks(
    chunks: Seq[tuple[int, SequenceRows]], window: int | None, cache: PagedCache
) -> list[PrefillChunk]:
    """`chunks` are pairs of the first row and the sequence.

    Tiles lie on one grid of positions, so that what a query sees depends on its place in its
    tile and on a key's distance from the tile's end alone: one mask, aligned at its right edge,
    serves all of them.
    """
    if not chunks:
        return []
    parts = [list(_tile_parts(sequence, window)) for _, sequence in chunks]
    width = max(part.tile_end - part.key_begin for chunk in parts for part in chunk)
    rows = torch.arange(width - TILE, width, device=cache.device)
    keys = torch.arange(width, device=cache.device)
    mask = additive(visible(rows[:, None], keys, window), cache.dtype)
    return [
        _plan_chunk(first, sequence, chunk, mask, cache)
        for (first, sequence), chunk in zip(chunks, parts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _ChunkPart:
    """Positions [begin, end) in the tile that ends at `tile_end`; they see from `key_begin` on."""

    begin: int
    end: int
    tile_end: int
    key_begin: int


def _tile_parts(sequence: SequenceRows, window: int | None) -> Iterator[_ChunkPart]:
    begin = sequence.start
    while begin < sequence.end:
        tile_end = (begin // TILE + 1) * TILE
        key_begin = 0 if window is None else max(0, begin - window + 1) // TILE * TILE
        yield _ChunkPart(begin, min(tile_end, sequence.end), tile_end, key_begin)
        begin = tile_end


def _plan_chunk(
    first: int, sequence: SequenceRows, parts: list[_ChunkPart], mask: Tensor, cache: PagedCache
) -> PrefillChunk:
    num_blocks = cache.num_blocks_for(sequence.end)
    gathered_begin, gathered_end = parts[0].key_begin, num_blocks * cache.block_size
    tiles = []
    for part in parts:
        key_end = min(part.tile_end, gathered_end)
        tiles.append(
            Tile(
                begin=first + part.begin - sequence.start,
                end=first + part.end - sequence.start,
                key_begin=part.key_begin - gathered_begin,
                key_end=key_end - gathered_begin,
                mask=_mask_of(part, mask)[:, : key_end - part.key_begin],
            )
        )
    table = list(sequence.blocks[gathered_begin // cache.block_size : num_blocks])
    gather_index = cache.gather_index(cache.tensor([table]))
    return PrefillChunk(gather_index, sequence.end - gathered_begin, tuple(tiles))


def _mask_of(part: _ChunkPart, mask: Tensor) -> Tensor:
    """The queries' rows of the shared `mask`, and its last columns: keys up to the tile's end."""
    row = part.begin - (part.tile_end - TILE)
    column = mask.shape[1] - (part.tile_end - part.key_begin)
    return mask[row : row + part.end - part.begin, column:]
