"""What FlashInfer is asked for, with a stand-in that computes it from the pages it is given."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.attention import flashinfer_backend
from engine.attention.backend import AttentionBatch, SequenceRows
from engine.attention.flashinfer_backend import FlashInferBackend, FlashInferTables
from engine.attention.torch_backend import TorchBackend

HEADS, KV_HEADS, HEAD_SIZE, BLOCK = 4, 2, 8, 4
WINDOWS = (None, 5)


@dataclass
class StandIn:
    """Of both wrappers: the same arguments, checked, and the attention that they describe."""

    workspace: Tensor
    layout: str
    use_cuda_graph: bool = False
    use_tensor_cores: bool = False
    paged_kv_indptr_buffer: Tensor | None = None
    paged_kv_indices_buffer: Tensor | None = None
    paged_kv_last_page_len_buffer: Tensor | None = None
    prefill: bool = False
    plans: list[dict[str, Any]] = field(default_factory=list)

    def plan(self, *arguments: Any, **settings: Any) -> None:
        if not self.prefill:
            rows = len(arguments[2])
            arguments = (torch.arange(rows + 1, dtype=torch.int32), *arguments)
        queries, begins, blocks, last_counts, heads, kv_heads, head_size, block_size = arguments
        assert (heads, kv_heads, head_size, block_size) == (HEADS, KV_HEADS, HEAD_SIZE, BLOCK)
        assert {t.dtype for t in (queries, begins, blocks, last_counts)} == {torch.int32}
        assert self.prefill == settings.get("causal", False)
        assert settings["q_data_type"] == settings["kv_data_type"] == torch.float32
        assert self.layout == "HND"
        if self.use_cuda_graph:
            assert self.paged_kv_indptr_buffer is not None
            assert self.paged_kv_indices_buffer is not None
            assert len(begins) == len(self.paged_kv_indptr_buffer)
            assert len(blocks) <= len(self.paged_kv_indices_buffer)
        self.plans.append({"window_left": settings["window_left"]})
        self.planned = queries, begins, blocks, last_counts, settings["window_left"]

    def run(self, query: Tensor, cache: tuple[Tensor, Tensor], out: Tensor) -> Tensor:
        queries, begins, blocks, last_counts, window_left = self.planned
        keys, values = cache
        assert out.shape == query.shape
        for number, last_count in enumerate(last_counts.tolist()):
            pages = blocks[begins[number] : begins[number + 1]].long()
            end = (len(pages) - 1) * BLOCK + last_count
            first, stop = queries[number].item(), queries[number + 1].item()
            k, v = (
                part[pages].transpose(1, 2).reshape(-1, KV_HEADS, HEAD_SIZE)[:end]
                for part in (keys, values)
            )
            for row in range(first, stop):
                place = end - (stop - row)
                begin = 0 if window_left < 0 else max(0, place - window_left)
                mine = query[row].view(KV_HEADS, -1, HEAD_SIZE)
                seen_k, seen_v = k[begin : place + 1], v[begin : place + 1]
                scores = torch.einsum("kgd,nkd->kgn", mine, seen_k) / HEAD_SIZE**0.5
                out[row] = torch.einsum("kgn,nkd->kgd", scores.softmax(-1), seen_v).flatten(0, 1)
        return out


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """A module flashinfer on a machine without a GPU, and the wrappers that were made."""
    wrappers: list[StandIn] = []

    def make(*arguments: Any, prefill: bool = False, **settings: Any) -> StandIn:
        wrappers.append(StandIn(*arguments, **settings, prefill=prefill))
        return wrappers[-1]

    module = SimpleNamespace(
        BatchDecodeWithPagedKVCacheWrapper=make,
        BatchPrefillWithPagedKVCacheWrapper=lambda *a, **s: make(*a, prefill=True, **s),
    )
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setattr(flashinfer_backend, "_WORKSPACE_BYTES", 16)
    event = SimpleNamespace(synchronize=lambda: None)
    stream = SimpleNamespace(record_event=lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return wrappers


def a_cache() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, len(WINDOWS), 2, KV_HEADS, BLOCK, HEAD_SIZE, generator=generator)


def spans_of(*pieces: tuple[int, int]) -> list[SequenceRows]:
    """(start, count) each, over scattered blocks."""
    blocks, spans = list(range(40)), []
    random.Random(1).shuffle(blocks)
    for start, count in pieces:
        needed = -(-(start + count) // BLOCK)
        spans.append(SequenceRows(start, count, blocks[:needed]))
        del blocks[:needed]
    return spans


def attended(batch: AttentionBatch, num_tokens: int) -> list[Tensor]:
    """Of each layer, with the same random queries, keys and values."""
    generator = torch.Generator().manual_seed(1)
    outputs = []
    for layer in range(len(WINDOWS)):
        query = torch.randn(num_tokens, HEADS, HEAD_SIZE, generator=generator)
        key, value = torch.randn(2, num_tokens, KV_HEADS, HEAD_SIZE, generator=generator)
        outputs.append(batch.attend(layer, query, key, value))
    return outputs


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 7)],
        [(6, 1), (0, 1), (17, 1)],
        [(4, 5), (11, 1), (0, 3), (8, 8)],
    ],
)
def test_it_is_planned_what_torch_computes(
    pieces: list[tuple[int, int]], made: list[StandIn]
) -> None:
    spans, num_tokens = spans_of(*pieces), sum(count for _, count in pieces)
    backend = FlashInferBackend(a_cache(), WINDOWS, torch.float32, HEADS)
    ours, theirs = a_cache(), backend.cache
    expected = attended(TorchBackend(ours, WINDOWS).prepare(spans), num_tokens)
    assert same(attended(backend.prepare(spans), num_tokens), expected)
    for span in spans:  # behind a sequence's end one of them clears, and the other does not
        for place in range(span.end):
            block, slot = span.blocks[place // BLOCK], place % BLOCK
            assert torch.equal(ours[block, ..., slot, :], theirs[block, ..., slot, :])


def test_a_step_is_planned_once_for_each_window(made: list[StandIn]) -> None:
    backend = FlashInferBackend(a_cache(), (None, 5, None, 5), torch.float32, HEADS)
    backend.prepare(spans_of((6, 1), (3, 1)))
    plans = [plan for wrapper in made for plan in wrapper.plans]
    assert sorted(plan["window_left"] for plan in plans) == [-1, 4]


def test_recorded_steps_are_planned_into_buffers_that_stay(made: list[StandIn]) -> None:
    spans = spans_of((6, 1), (0, 1), (17, 1))
    backend = FlashInferBackend(a_cache(), WINDOWS, torch.float32, HEADS)
    tables = FlashInferTables(backend, most_blocks=6)
    columns = torch.zeros(6, 3, dtype=torch.int32)
    for column, span in enumerate(spans):
        columns[: len(span.blocks), column] = torch.tensor(span.blocks)
    batch = tables.batch(columns, torch.tensor([span.start for span in spans]))
    tables.plan(np.array([span.end for span in spans]), columns.numpy())
    expected = attended(TorchBackend(a_cache(), WINDOWS).prepare(spans), 3)
    assert same(attended(batch, 3), expected)
    tables.plan(np.array([span.end for span in spans]), columns.numpy())
    assert sum(wrapper.use_cuda_graph for wrapper in made) == len(WINDOWS)
