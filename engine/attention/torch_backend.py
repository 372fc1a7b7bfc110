"""Attention with PyTorch's own kernels, the same code on every device."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import cached_property

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows, places_of
from engine.attention.causal_chunk import CausalChunk, has_flash_attention, plan_causal_chunks
from engine.attention.decode_rows import DecodeRows, plan_decode_rows
from engine.attention.paged_cache import PagedCache
from engine.attention.prefill_chunk import PrefillChunk, plan_prefill_chunks
from engine.attention.scaled_cache import paged_cache

Part = DecodeRows | PrefillChunk | CausalChunk


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
    ) -> None:
        self._tensor = cache
        self._cache = paged_cache(cache, dtype, scales)
        self._windows = tuple(windows)

    def prepare(self, spans: Seq[SequenceRows]) -> TorchBatch:
        """A step over `spans`."""
        return TorchBatch(spans, self._tensor, self._cache, self._windows)


class TorchBatch:
    """One step. Its index tensors and masks are made when a layer first asks for attention."""

    def __init__(
        self,
        spans: Seq[SequenceRows],
        cache: Tensor,
        paged: PagedCache,
        windows: Seq[int | None],
    ) -> None:
        self.spans = spans
        self.cache = cache
        self.scales = paged.scales
        self._paged = paged
        self._windows = windows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See engine.attention.backend.AttentionBatch.attend."""
        self._paged.write(layer, *self.places, key, value)
        return self.read(layer, query)

    def read(self, layer: int, query: Tensor) -> Tensor:
        """See engine.attention.backend.AttentionBatch.read."""
        output = torch.empty_like(query)
        for part in self._parts[self._windows[layer]]:
            part.attend(self._paged, layer, query, output)
        return output

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Blocks and slots of the step's tokens, each [tokens]; blocks that it begins are cleared.

        Cleared, because attention reads whole blocks and masks what lies beyond a sequence's
        end: if an earlier owner left NaN there, masking would not hide it.
        """
        size = self._paged.block_size
        begun = (s for s in self.spans if s.end % size and s.end // size * size >= s.start)
        self._paged.clear([span.blocks[span.end // size] for span in begun])
        if self.scales is not None:
            self._paged.begin([block for span in self.spans for block in span.begun(size)])
        blocks, slots = self._paged.tensor(places_of(self.spans, size))
        return blocks, slots

    @cached_property
    def _parts(self) -> dict[int | None, list[Part]]:
        """What attends, by the window that it needs."""
        return {window: self._plan(window) for window in set(self._windows)}

    def _plan(self, window: int | None) -> list[Part]:
        rows: list[tuple[int, SequenceRows]] = []
        chunks: list[tuple[int, SequenceRows]] = []
        first = 0
        for span in self.spans:
            (rows if span.count == 1 else chunks).append((first, span))
            first += span.count
        parts: list[Part] = [*plan_decode_rows(rows, window, self._paged)]
        if has_flash_attention(self._paged, window):
            return [*parts, *plan_causal_chunks(chunks, self._paged)]
        return [*parts, *plan_prefill_chunks(chunks, window, self._paged)]
