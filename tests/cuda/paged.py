"""A paged cache with contexts of given lengths, and attention over it by the plain formula."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

BLOCK_SIZE = 16
HEAD_SIZE = 32


class PagedContexts:
    """Contexts of `ends` tokens each; all that no context has a right to is NaN.

    `cache` [blocks, 2, kv_heads, block_size, head_size] is one layer of a cache of two; `tables`
    [width, rows] have entries of no meaning behind a row's last block.
    """

    def __init__(
        self,
        ends: Seq[int],
        dtype: torch.dtype,
        *,
        num_heads: int = 4,
        num_kv_heads: int = 2,
        stored_as: torch.dtype | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        counts = [-(-end // BLOCK_SIZE) for end in ends]
        blocks = list(range(1, sum(counts) + 1))
        random.Random(0).shuffle(blocks)
        self.positions = torch.tensor(ends) - 1
        self.tables = torch.zeros(max(counts) + 4, len(ends), dtype=torch.int32)
        numbers = torch.full((len(blocks) + 1, 2, num_kv_heads, BLOCK_SIZE, HEAD_SIZE), torch.nan)
        for row, (end, count) in enumerate(zip(ends, counts, strict=True)):
            self.tables[:count, row] = torch.tensor([blocks.pop() for _ in range(count)])
            for place in range(end):
                block = self.tables[place // BLOCK_SIZE, row].long()
                shape = numbers[block, :, :, place % BLOCK_SIZE].shape
                numbers[block, :, :, place % BLOCK_SIZE] = torch.randn(shape, generator=generator)
        self.scales = None
        if stored_as is not None:
            self.scales = torch.rand(numbers.shape[:3], generator=generator) + 0.5
        self.cache = torch.stack([numbers, numbers], 1).to(stored_as or dtype)[:, 1]
        fused = num_heads + 2 * num_kv_heads
        self.query = torch.randn(len(ends), fused, HEAD_SIZE, generator=generator).to(dtype)
        self.query = self.query[:, :num_heads]

    def expected(self, window: int | None) -> Tensor:
        """Attention in float32, [rows, heads, head_size]."""
        return torch.stack([self._row(row, window) for row in range(len(self.positions))])

    def _row(self, row: int, window: int | None) -> Tensor:
        end = int(self.positions[row]) + 1
        table = self.tables[: -(-end // BLOCK_SIZE), row].long()
        numbers = self.cache[table].float()
        if self.scales is not None:
            numbers = numbers * self.scales[table][..., None, None]
        begin = 0 if window is None else max(0, end - window)
        keys, values = numbers.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, begin:end]
        query = self.query[row].float().view(len(keys), -1, HEAD_SIZE)
        shares = (query @ keys.mT / HEAD_SIZE**0.5).softmax(-1)
        return (shares @ values).flatten(0, 1)
