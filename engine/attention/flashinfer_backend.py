"""Attention with FlashInfer's kernels: paged prefill and paged decode, on a GPU.

FlashInfer takes a layer's keys and values as views of [blocks, kv_heads, block_size, head_size]
("HND") with any strides, as long as both have the same; it knows no scales of single blocks. Each
step is planned once for each sliding window. (Ye et al., "FlashInfer", 2025)
"""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.attention.backend import SequenceRows, token_slots_of
from engine.attention.flashinfer_available import search_path
from engine.attention.paged_cache import PagedCache
from engine.attention.step_rows import PlacedRows, row_index, split_step
from engine.attention.tables import TableBatch
from engine.device.to_device import to_device

_WORKSPACE_BYTES = 256 << 20
SHORT_PROMPT = 64
"""Tokens of the longest prompt for which FlashInfer has other kernels on Hopper than for long ones.
"""


@dataclass(frozen=True, slots=True)
class BlockTables:
    """A step's block tables in FlashInfer's CSR form: int32, `blocks` on the device."""

    query_indptr: Tensor
    """[sequences + 1]: first row of each sequence."""
    block_indptr: Tensor
    """[sequences + 1]: first entry of each sequence in `blocks`."""
    blocks: Tensor
    last_block_lens: Tensor
    """[sequences]: tokens in each last block."""

    @staticmethod
    def of(sequences: Seq[SequenceRows], block_size: int, device: torch.device) -> BlockTables:
        query_indptr, block_indptr, last_block_lens = [0], [0], list[int]()
        blocks: list[int] = []
        for sequence in sequences:
            count = -(-sequence.end // block_size)
            query_indptr.append(query_indptr[-1] + sequence.count)
            block_indptr.append(block_indptr[-1] + count)
            blocks += sequence.blocks[:count]
            last_block_lens.append((sequence.end - 1) % block_size + 1)
        counts = (query_indptr, block_indptr, last_block_lens)
        host = [torch.tensor(values, dtype=torch.int32) for values in counts]
        return BlockTables(host[0], host[1], to_device(blocks, device, torch.int32), host[2])

    @staticmethod
    def of_rows(
        ends: np.ndarray, tables: np.ndarray, block_size: int, device: torch.device
    ) -> BlockTables:
        """One row a sequence, which sees `ends` [rows] tokens in blocks `tables` [width, rows]."""
        counts = -(-ends // block_size)
        begins = np.concatenate(([0], counts.cumsum()))
        entered = np.arange(len(tables)) < counts[:, None]
        host = (np.arange(len(ends) + 1), begins, (ends - 1) % block_size + 1)
        query_indptr, block_indptr, last_block_lens = (
            torch.from_numpy(numbers.astype(np.int32)) for numbers in host
        )
        blocks = to_device(tables.T[entered], device, torch.int32)
        return BlockTables(query_indptr, block_indptr, blocks, last_block_lens)


def _import_flashinfer() -> Any:
    """The library, which finds ninja on the PATH when it compiles a kernel."""
    os.environ["PATH"] = search_path(os.environ)
    import flashinfer

    return flashinfer


class FlashInferBackend:
    """Bound to one cache; queries of `num_heads` heads come in `dtype`."""

    def __init__(
        self, cache: Tensor, windows: Seq[int | None], dtype: torch.dtype, num_heads: int
    ) -> None:
        self._library = _import_flashinfer()
        self.cache = cache
        self.windows = tuple(windows)
        self.paged = PagedCache(cache, dtype)
        self._num_heads = num_heads
        self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=cache.device)
        self._planned: torch.cuda.Event | None = None
        self._prefill = {window: self._prefill_wrapper() for window in set(windows)}
        self._decode = {window: self.decode_wrapper() for window in set(windows)}

    def load(self) -> None:
        """Compile and load all kernels now, which may take minutes, not when a prompt needs them.

        Plans choose the kernels: of a decode row, and of a short and a long prompt.
        """
        for count in (1, SHORT_PROMPT, SHORT_PROMPT + 1):
            blocks = [0] * self.paged.num_blocks_for(count)
            self.prepare([SequenceRows(0, count, blocks)])

    def prepare(self, sequences: Seq[SequenceRows]) -> FlashInferBatch:
        """Plan a step over these sequences.

        Decode rows have a plan of their own: kernels for prompts compute a KV head's whole context
        in one block of threads, which is slow where a row's context is long.
        """
        rows, chunks = split_step(sequences)
        parts = []
        self._wait_for_last_plan()
        if rows:
            self._plan_rows(self._decode, self._tables(rows))
            parts.append(PlannedRows(row_index(rows, self.cache.device), self._decode))
        if chunks:
            self._plan_chunks(self._tables(chunks))
            parts.append(PlannedRows(row_index(chunks, self.cache.device), self._prefill))
        self._mark_plan()
        return FlashInferBatch(self, sequences, parts)

    def plan_decode(self, wrappers: dict[int | None, Any], tables: BlockTables) -> None:
        """Plan a step of decode rows alone, for wrappers of each window."""
        self._wait_for_last_plan()
        self._plan_rows(wrappers, tables)
        self._mark_plan()

    def _plan_rows(self, wrappers: dict[int | None, Any], tables: BlockTables) -> None:
        for window, wrapper in wrappers.items():
            wrapper.plan(
                tables.block_indptr,
                tables.blocks,
                tables.last_block_lens,
                *self._sizes,
                **self._settings(window),
            )

    def _plan_chunks(self, tables: BlockTables) -> None:
        for window, wrapper in self._prefill.items():
            wrapper.plan(
                tables.query_indptr,
                tables.block_indptr,
                tables.blocks,
                tables.last_block_lens,
                *self._sizes,
                causal=True,
                **self._settings(window),
            )

    def _tables(self, placed: Seq[PlacedRows]) -> BlockTables:
        sequences = [sequence for _, sequence in placed]
        return BlockTables.of(sequences, self.paged.block_size, self.cache.device)

    def decode_wrapper(self, **buffers: Any) -> Any:
        """A wrapper; with `buffers`, which FlashInfer's documentation names, for CUDA graphs."""
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
        """FlashInfer's window counts the tokens to the left of one."""
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


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """Rows of a step, a slice or indices [n], and the wrapper of each window that is planned."""

    rows: slice | Tensor
    wrappers: dict[int | None, Any]


def run_layer(wrapper: Any, cache: Tensor, layer: int, query: Tensor, out: Tensor) -> None:
    """Attention of query [tokens, heads, head_size] over one layer's keys and values, into `out`.

    Without `out` FlashInfer fills its own with zeros first.
    """
    wrapper.run(query, (cache[:, layer, 0], cache[:, layer, 1]), out=out)


class FlashInferBatch:
    """One planned step; see engine.attention.backend.AttentionBatch."""

    def __init__(
        self,
        backend: FlashInferBackend,
        sequences: Seq[SequenceRows],
        parts: Seq[PlannedRows],
    ) -> None:
        self.sequences = sequences
        self.cache = backend.cache
        self.scales: Tensor | None = None
        self._backend = backend
        self._parts = parts

    @cached_property
    def token_slots(self) -> tuple[Tensor, Tensor]:
        paged = self._backend.paged
        blocks, slots = paged.tensor(token_slots_of(self.sequences, paged.block_size))
        return blocks, slots

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._backend.paged.write(layer, *self.token_slots, key, value)
        return self.read(layer, query)

    def read(self, layer: int, query: Tensor) -> Tensor:
        window = self._backend.windows[layer]
        output = query.new_empty(query.shape)
        for part in self._parts:
            rows, wrapper = part.rows, part.wrappers[window]
            out = output[rows]  # a view, or a copy where the rows are no neighbours
            run_layer(wrapper, self.cache, layer, query[rows], out)
            if not isinstance(rows, slice):
                output[rows] = out
        return output


class FlashInferTables:
    """Decode steps in CUDA graphs: for each number of rows, wrappers with fixed buffers."""

    def __init__(self, backend: FlashInferBackend, most_blocks: int) -> None:
        self._backend = backend
        self._most_blocks = most_blocks
        self._wrappers: dict[int, dict[int | None, Any]] = {}

    def width(self, num_blocks: int, most: int) -> int:
        return most

    def batch(self, tables: Tensor, positions: Tensor) -> TableBatch:
        return PlannedBatch(self._backend, self._wrappers_for(len(positions)), tables, positions)

    def plan(self, ends: np.ndarray, tables: np.ndarray) -> None:
        backend = self._backend
        made = BlockTables.of_rows(ends, tables, backend.paged.block_size, backend.cache.device)
        backend.plan_decode(self._wrappers_for(len(ends)), made)

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
    """A batch that reads FlashInfer's own buffers instead of the block tables."""

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
        output = query.new_empty(query.shape)
        run_layer(self._wrappers[self._windows[layer]], self.cache, layer, query, output)
        return output
