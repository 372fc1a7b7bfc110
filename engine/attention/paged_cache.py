"""The paged KV cache as a tensor, written by token slots and read by block tables."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from engine.device.to_device import to_device


class PagedCache:
    """A view of [blocks, layers, 2, kv_heads, block_size, head_size], as wire.layout describes."""

    def __init__(self, cache: Tensor, dtype: torch.dtype | None = None) -> None:
        """Keys and values are converted to `dtype` when they are read."""
        _, self.num_layers, _, self.num_kv_heads, self.block_size, self.head_size = cache.shape
        self.device = cache.device
        self.dtype = dtype or cache.dtype
        self._cache = cache
        self.scales: Tensor | None = None
        self._heads = torch.arange(2 * self.num_kv_heads, device=self.device)

    @cached_property
    def _rows(self) -> Tensor:
        """One row for each head of a block, whose slots are contiguous."""
        return self._cache.view(-1, self.block_size * self.head_size)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def layer(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """One layer's values [blocks, 2, kv_heads, block_size, head_size], and their scales."""
        return self._cache[:, layer], None if self.scales is None else self.scales[:, layer]

    def tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        """Integers on the cache's device."""
        return to_device(values, self.device)

    def clear(self, blocks: list[int]) -> None:
        """Zero whole blocks, in all layers."""
        if blocks:
            self._cache.index_fill_(0, self.tensor(blocks), 0)

    def begin(self, blocks: list[int]) -> None:
        """Called before a step writes to the first slots of these blocks."""

    def begin_rows(self, blocks: Tensor, slots: Tensor) -> None:
        """`begin` for decode rows at these slots; no two rows are in one block."""

    def write(self, layer: int, blocks: Tensor, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_size] at (blocks, slots), each [tokens]."""
        slot_major = self._cache[:, layer].transpose(2, 3)
        slot_major[:, 0][blocks, slots] = key.to(slot_major.dtype)
        slot_major[:, 1][blocks, slots] = value.to(slot_major.dtype)

    def gather_index(self, tables: Tensor) -> Tensor:
        """The index that `gather` takes for block tables [n, width].

        Rows of layer 0, [2, n, kv_heads, width]: keys before values.
        """
        first = tables * (self.num_layers * 2 * self.num_kv_heads)
        return self._heads.view(2, 1, -1, 1) + first[:, None]

    def gather(self, layer: int, gather_index: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each a copy [n, kv_heads, width * block_size, head_size]."""
        index = gather_index.flatten() + layer * 2 * self.num_kv_heads
        shape = (*gather_index.shape[:3], -1, self.head_size)
        keys, values = self._rows.index_select(0, index).view(shape).to(self.dtype)
        return keys, values
