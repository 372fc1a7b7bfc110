"""Attention with PyTorch's own kernels, the same code on every device."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.attention.backend import Span
from engine.attention.decode_rows import DecodeRows, plan_decode_rows
from engine.attention.paged_cache import PagedCache
from engine.attention.prefill_chunk import PrefillChunk, plan_prefill_chunks

Part = DecodeRows | PrefillChunk


class TorchBackend:
    """Attends over `cache`; `windows` holds each layer's sliding window, None for none."""

    def __init__(self, cache: Tensor, windows: Seq[int | None]) -> None:
        self._cache = PagedCache(cache)
        self._windows = tuple(windows)

    def prepare(self, spans: Seq[Span]) -> TorchBatch:
        """Index tensors and masks for one step; blocks that the step begins are cleared.

        Cleared, because attention reads whole blocks and masks what lies beyond a sequence's
        end: if an earlier owner left NaN there, masking would not hide it.
        """
        size = self._cache.block_size
        begun = (s for s in spans if s.end % size and s.end // size * size >= s.start)
        self._cache.clear([span.blocks[span.end // size] for span in begun])
        parts = {window: self._plan(spans, window) for window in set(self._windows)}
        positions = [position for span in spans for position in range(span.start, span.end)]
        blocks = [span.blocks[p // size] for span in spans for p in range(span.start, span.end)]
        return TorchBatch(
            self._cache,
            [parts[window] for window in self._windows],
            self._cache.tensor(blocks),
            self._cache.tensor([position % size for position in positions]),
        )

    def _plan(self, spans: Seq[Span], window: int | None) -> list[Part]:
        rows: list[tuple[int, Span]] = []
        chunks: list[tuple[int, Span]] = []
        first = 0
        for span in spans:
            (rows if span.count == 1 else chunks).append((first, span))
            first += span.count
        return [
            *plan_decode_rows(rows, window, self._cache),
            *plan_prefill_chunks(chunks, window, self._cache),
        ]


class TorchBatch:
    """One step: where its keys and values go, and by layer the parts that attend."""

    def __init__(
        self, cache: PagedCache, parts: Seq[Seq[Part]], blocks: Tensor, slots: Tensor
    ) -> None:
        self._cache = cache
        self._parts = parts
        self._blocks = blocks
        self._slots = slots

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See engine.attention.backend.AttentionBatch.attend."""
        self._cache.write(layer, self._blocks, self._slots, key, value)
        output = torch.empty_like(query)
        for part in self._parts[layer]:
            part.attend(self._cache, layer, query, output)
        return output
