"""Attention with FlashInfer's kernels: paged prefill and paged decode, on a GPU.

FlashInfer takes a layer's keys and values as views of [blocks, kv_heads, block_size, head_size]
("HND") with any strides, as long as both have the same; it knows no scales of single blocks. What
is read where is planned once for each sliding window and step. (Ye et al., "FlashInfer", 2025)
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows, places_of
from engine.attention.paged_cache import PagedCache
from engine.attention.tables import TableBatch
from engine.device.to_device import to_device

_WORKSPACE_BYTES = 256 << 20


def has_flashinfer() -> bool:
    return find_spec("flashinfer") is not None


@dataclass(frozen=True, slots=True)
class Pages:
    """Spans as FlashInfer counts them: int32 on the host, but for the blocks themselves."""

    query_begins: Tensor
    """[spans + 1]: where a span's tokens begin among the step's."""
    begins: Tensor
    """[spans + 1]: where its blocks begin in `blocks`."""
    blocks: Tensor
    last_counts: Tensor
    """[spans]: tokens in its last block."""

    @staticmethod
    def of(spans: Seq[SequenceRows], block_size: int, device: torch.device) -> Pages:
        query_begins, begins, last_counts = [0], [0], list[int]()
        blocks: list[int] = []
        for span in spans:
            count = -(-span.end // block_size)
            query_begins.append(query_begins[-1] + span.count)
            begins.append(begins[-1] + count)
            blocks += span.blocks[:count]
            last_counts.append((span.end - 1) % block_size + 1)
        counts = (query_begins, begins, last_counts)
        host = [torch.tensor(values, dtype=torch.int32) for values in counts]
        return Pages(host[0], host[1], to_device(blocks, device, torch.int32), host[2])


class FlashInferBackend:
    """Bound to one cache; queries of `num_heads` heads come in `dtype`."""

    def __init__(
        self, cache: Tensor, windows: Seq[int | None], dtype: torch.dtype, num_heads: int
    ) -> None:
        import flashinfer

        self._library: Any = flashinfer
        self.cache = cache
        self.windows = tuple(windows)
        self.paged = PagedCache(cache, dtype)
        self._num_heads = num_heads
        self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=cache.device)
        self._planned: torch.cuda.Event | None = None
        self._prefill = {window: self._prefill_wrapper() for window in set(windows)}
        self._decode = {window: self.decode_wrapper() for window in set(windows)}

    def prepare(self, spans: Seq[SequenceRows]) -> FlashInferBatch:
        """A step over `spans`; planned here."""
        pages = Pages.of(spans, self.paged.block_size, self.cache.device)
        if all(span.count == 1 for span in spans):
            self.plan_decode(self._decode, pages)
            return FlashInferBatch(self, spans, self._decode)
        self._wait_for_last_plan()
        for window, wrapper in self._prefill.items():
            wrapper.plan(
                pages.query_begins,
                pages.begins,
                pages.blocks,
                pages.last_counts,
                *self._sizes,
                causal=True,
                **self._settings(window),
            )
        self._mark_plan()
        return FlashInferBatch(self, spans, self._prefill)

    def plan_decode(self, wrappers: dict[int | None, Any], pages: Pages) -> None:
        self._wait_for_last_plan()
        for window, wrapper in wrappers.items():
            wrapper.plan(
                pages.begins,
                pages.blocks,
                pages.last_counts,
                *self._sizes,
                **self._settings(window),
            )
        self._mark_plan()

    def decode_wrapper(self, **buffers: Any) -> Any:
        """With buffers, one for graphs; see FlashInfer's documentation for their names."""
        return self._library.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "HND",
            use_cuda_graph=bool(buffers),
            use_tensor_cores=self._num_heads // self.paged.num_kv_heads >= 4,
            **buffers,
        )

    def _prefill_wrapper(self) -> Any:
        return self._library.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "HND")

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        paged = self.paged
        return self._num_heads, paged.num_kv_heads, paged.head_size, paged.block_size

    def _settings(self, window: int | None) -> dict[str, Any]:
        """Its window counts the tokens to the left of one."""
        return {
            "window_left": -1 if window is None else window - 1,
            "q_data_type": self.paged.dtype,
            "kv_data_type": self.cache.dtype,
        }

    def _wait_for_last_plan(self) -> None:
        """A wrapper copies its plan from one piece of pinned memory, which it then overwrites."""
        if self._planned is not None:
            self._planned.synchronize()

    def _mark_plan(self) -> None:
        self._planned = torch.cuda.current_stream(self.cache.device).record_event()


def run_layer(wrapper: Any, cache: Tensor, layer: int, query: Tensor) -> Tensor:
    """[tokens, heads, head_size] -> the same, over one layer's keys and values."""
    attended: Tensor = wrapper.run(query, (cache[:, layer, 0], cache[:, layer, 1]))
    return attended


class FlashInferBatch:
    """One planned step; see engine.attention.backend.AttentionBatch."""

    def __init__(
        self, backend: FlashInferBackend, spans: Seq[SequenceRows], wrappers: dict[int | None, Any]
    ) -> None:
        self.spans = spans
        self.cache = backend.cache
        self.scales: Tensor | None = None
        self._backend = backend
        self._wrappers = wrappers

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        paged = self._backend.paged
        blocks, slots = paged.tensor(places_of(self.spans, paged.block_size))
        return blocks, slots

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._backend.paged.write(layer, *self.places, key, value)
        return self.read(layer, query)

    def read(self, layer: int, query: Tensor) -> Tensor:
        window = self._backend.windows[layer]
        return run_layer(self._wrappers[window], self.cache, layer, query)


class FlashInferTables:
    """Decode steps for graphs: for each number of rows, wrappers with buffers that stay."""

    def __init__(self, backend: FlashInferBackend, most_blocks: int) -> None:
        self._backend = backend
        self._most_blocks = most_blocks
        self._wrappers: dict[int, dict[int | None, Any]] = {}

    def width(self, num_blocks: int, most: int) -> int:
        return most

    def batch(self, tables: Tensor, positions: Tensor) -> TableBatch:
        return PlannedBatch(self._backend, self._wrappers_for(len(positions)), tables, positions)

    def plan(self, spans: Seq[SequenceRows]) -> None:
        backend = self._backend
        pages = Pages.of(spans, backend.paged.block_size, backend.cache.device)
        backend.plan_decode(self._wrappers_for(len(spans)), pages)

    def _wrappers_for(self, rows: int) -> dict[int | None, Any]:
        if rows not in self._wrappers:
            windows = set(self._backend.windows)
            self._wrappers[rows] = {window: self._wrapper(rows) for window in windows}
        return self._wrappers[rows]

    def _wrapper(self, rows: int) -> Any:
        def buffer(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=self._backend.cache.device)

        return self._backend.decode_wrapper(
            paged_kv_indptr_buffer=buffer(rows + 1),
            paged_kv_indices_buffer=buffer(rows * self._most_blocks),
            paged_kv_last_page_len_buffer=buffer(rows),
        )


class PlannedBatch(TableBatch):
    """With FlashInfer's decoding, which reads its own buffers and not the tables."""

    def __init__(
        self,
        backend: FlashInferBackend,
        wrappers: dict[int | None, Any],
        tables: Tensor,
        positions: Tensor,
    ) -> None:
        super().__init__(backend.cache, backend.windows, backend.paged, tables, positions)
        self._wrappers = wrappers

    def read(self, layer: int, query: Tensor) -> Tensor:
        return run_layer(self._wrappers[self._windows[layer]], self.cache, layer, query)
