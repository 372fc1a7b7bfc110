"""A paged KV cache of 8-bit values with scales; see wire.layout."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attention.paged_cache import PagedCache


class ScaledCache(PagedCache):
    """A number is what is stored times its scale, float32 [blocks, layers, 2, kv_heads].

    Values that this worker computes have a scale of 1: keys and values are far below 448, the
    largest number of `float8_e4m3fn`, to which they are clamped. Blocks that another worker
    converted come with their own scales, and keep them while the rest of a block is filled.
    """

    def __init__(self, cache: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__(cache, dtype)
        self.scales = self._scales = scales
        self._stored_as = cache.dtype
        self._bits = cache.view(torch.uint8)  # few operations know numbers of 8 bits
        self._limit = torch.finfo(cache.dtype).max

    def clear(self, blocks: list[int]) -> None:
        if blocks:
            self._bits.index_fill_(0, self.tensor(blocks), 0)

    def begin(self, blocks: list[int]) -> None:
        if blocks:
            self._scales.index_fill_(0, self.tensor(blocks), 1.0)

    def begin_rows(self, blocks: Tensor, slots: Tensor) -> None:
        first = (slots == 0)[:, None, None, None]
        self._scales[blocks] = self._scales[blocks].masked_fill(first, 1.0)

    def write(self, layer: int, blocks: Tensor, slots: Tensor, key: Tensor, value: Tensor) -> None:
        slot_major = self._bits[:, layer].transpose(2, 3)
        scales = self._scales[:, layer][blocks]
        for kind, numbers in enumerate((key, value)):
            scaled = numbers.float() / scales[:, kind, :, None]
            stored = scaled.clamp(-self._limit, self._limit).to(self._stored_as)
            slot_major[:, kind][blocks, slots] = stored.view(torch.uint8)

    def gather_index(self, tables: Tensor) -> Tensor:
        return tables

    def gather(self, layer: int, gather_index: Tensor) -> tuple[Tensor, Tensor]:
        stored = self._bits[:, layer][gather_index].view(self._stored_as)
        numbers = stored.float() * self._scales[:, layer][gather_index][..., None, None]
        shape = (2, len(gather_index), self.num_kv_heads, -1, self.head_size)
        keys, values = numbers.to(self.dtype).permute(2, 0, 3, 1, 4, 5).reshape(shape)
        return keys, values


def paged_cache(cache: Tensor, dtype: torch.dtype | None, scales: Tensor | None) -> PagedCache:
    """A paged cache over these values, and their scales if there are any."""
    if scales is None:
        return PagedCache(cache, dtype)
    assert dtype is not None, "scaled values are not computed with"
    return ScaledCache(cache, scales, dtype)
