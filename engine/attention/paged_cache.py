"""The KV cache tensor, written by slots and read by block tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reading:
    """Block tables as rows of layer 0: `index` [2 * n * kv_heads * width], keys before values."""

    index: Tensor
    num_tables: int


class PagedCache:
    """A view of [blocks, layers, 2, kv_heads, block_size, head_size], as wire.layout describes."""

    def __init__(self, cache: Tensor) -> None:
        _, self.num_layers, _, self.num_kv_heads, self.block_size, self.head_size = cache.shape
        self.device = cache.device
        self.dtype = cache.dtype
        self._cache = cache
        # A head's slots within a block are contiguous, and so one row.
        self._rows = cache.view(-1, self.block_size * self.head_size)
        self._heads = torch.arange(2 * self.num_kv_heads, device=self.device)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        """Integers on the cache's device."""
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def clear(self, blocks: list[int]) -> None:
        """Zero whole blocks, in all layers."""
        if blocks:
            self._cache.index_fill_(0, self.tensor(blocks), 0)

    def write(self, layer: int, blocks: Tensor, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_size] at (blocks, slots), each [tokens]."""
        slot_major = self._cache[:, layer].transpose(2, 3)
        slot_major[:, 0][blocks, slots] = key
        slot_major[:, 1][blocks, slots] = value

    def reading(self, tables: list[list[int]]) -> Reading:
        """How to gather what lies under block tables [n, width], all of one width."""
        first = self.tensor(tables) * (self.num_layers * 2 * self.num_kv_heads)
        index = self._heads.view(2, 1, -1, 1) + first[:, None]
        return Reading(index.flatten(), len(tables))

    def gather(self, layer: int, reading: Reading) -> tuple[Tensor, Tensor]:
        """Keys and values, each a copy [n, kv_heads, width * block_size, head_size]."""
        rows = self._rows.index_select(0, reading.index + layer * 2 * self.num_kv_heads)
        shape = (2, reading.num_tables, self.num_kv_heads, -1, self.head_size)
        keys, values = rows.view(shape)
        return keys, values
