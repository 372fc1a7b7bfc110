"""Paged attention against the plain formula, over scattered blocks and spans of every kind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.attention.tables import TorchTables
from engine.attention.torch_backend import TorchBackend

pytestmark = pytest.mark.quick

HEADS, KV_HEADS, HEAD_SIZE = 6, 2, 8
NAMES = ("query", "key", "value")


def plain(query: Tensor, key: Tensor, value: Tensor, start: int, window: int | None) -> Tensor:
    """Causal attention of query [count, heads, size], whose first is at position `start`."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[2])
    rows, columns = torch.arange(start, start + len(query))[:, None], torch.arange(len(key))
    hidden = columns > rows
    if window is not None:
        hidden |= columns <= rows - window
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), value)


class Context:
    """A sequence's true keys and values, and the blocks where the backend keeps them."""

    def __init__(self, length: int, blocks: list[int]) -> None:
        self.query = torch.randn(length, HEADS, HEAD_SIZE)
        self.key = torch.randn(length, KV_HEADS, HEAD_SIZE)
        self.value = torch.randn(length, KV_HEADS, HEAD_SIZE)
        self.blocks = blocks

    def span(self, start: int, end: int) -> SequenceRows:
        return SequenceRows(start, end - start, self.blocks)


def attend(
    backend: TorchBackend, layer: int, pieces: list[tuple[Context, int, int]]
) -> list[Tensor]:
    batch = backend.prepare([context.span(start, end) for context, start, end in pieces])
    inputs = (
        torch.cat([getattr(context, name)[start:end] for context, start, end in pieces])
        for name in NAMES
    )
    counts = [end - start for _, start, end in pieces]
    return list(batch.attend(layer, *inputs).split(counts))


def expected(piece: tuple[Context, int, int], window: int | None) -> Tensor:
    context, start, end = piece
    return plain(context.query[start:end], context.key[:end], context.value[:end], start, window)


@pytest.mark.parametrize("window", [None, 1, 5, 100, 300, 700])
@pytest.mark.parametrize("block_size", [1, 4, 64])
def test_mixed_spans_attend_as_the_formula_says(window: int | None, block_size: int) -> None:
    torch.manual_seed(0)
    lengths = (800, 3, 257, 40, 520)
    order = torch.randperm(sum(-(-length // block_size) for length in lengths)).tolist()
    contexts = []
    for length in lengths:
        count = -(-length // block_size)
        contexts.append(Context(length, order[:count]))
        order = order[count:]
    num_blocks = sum(len(context.blocks) for context in contexts)
    cache = torch.zeros(num_blocks, 2, 2, KV_HEADS, block_size, HEAD_SIZE)
    backend = TorchBackend(cache, (None, window))
    long, tiny, middle, short, other = contexts
    steps = [
        [(long, 0, 300), (tiny, 0, 1), (short, 0, 39)],
        [(long, 300, 301), (tiny, 1, 2), (middle, 0, 257), (short, 39, 40)],
        [(other, 0, 513), (long, 301, 799), (tiny, 2, 3)],
        [(long, 799, 800), (other, 513, 520)],
    ]
    for pieces in steps:
        for piece, found in zip(pieces, attend(backend, 1, pieces), strict=True):
            torch.testing.assert_close(found, expected(piece, window), rtol=1e-4, atol=1e-5)


def test_what_an_earlier_owner_left_in_a_block_is_never_seen() -> None:
    cache = torch.full((8, 1, 2, KV_HEADS, 4, HEAD_SIZE), math.nan)
    backend = TorchBackend(cache, (None,))
    first, second = Context(8, [5, 2]), Context(11, [7, 1, 3])
    steps = [
        [(first, 0, 6)],
        [(first, 6, 7), (second, 0, 10)],
        [(first, 7, 8), (second, 10, 11)],
    ]
    for pieces in steps:
        for piece, found in zip(pieces, attend(backend, 0, pieces), strict=True):
            torch.testing.assert_close(found, expected(piece, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_nor_is_it_in_a_block_that_a_captured_step_began(window: int | None) -> None:
    cache = torch.full((8, 1, 2, KV_HEADS, 4, HEAD_SIZE), math.nan)
    backend = TorchBackend(cache, (window,))
    one, other = Context(12, [5, 2, 0]), Context(12, [7, 1, 3])
    attend(backend, 0, [(one, 0, 8), (other, 0, 8)])
    captured = TorchTables(cache, (window,), torch.float32)
    tables = torch.tensor([one.blocks, other.blocks], dtype=torch.int32).t()
    batch = captured.batch(tables, torch.tensor([8, 8]))
    batch.attend(0, *(torch.cat([getattr(c, n)[8:9] for c in (one, other)]) for n in NAMES))
    assert cache[0].isnan().any()  # it clears no block: of the third ones a slot is written
    pieces = [(one, 9, 10), (other, 9, 11)]  # a decode row, and a chunk
    for piece, found in zip(pieces, attend(backend, 0, pieces), strict=True):
        torch.testing.assert_close(found, expected(piece, window), rtol=1e-4, atol=1e-5)


def test_keys_and_values_lie_where_the_layout_says() -> None:
    cache = torch.zeros(4, 2, 2, KV_HEADS, 4, HEAD_SIZE)
    context = Context(6, [3, 1])
    attend(TorchBackend(cache, (None, None)), 1, [(context, 0, 6)])
    assert torch.equal(cache[1, 1, 0, :, 1], context.key[5])
    assert torch.equal(cache[3, 1, 1, :, 2], context.value[2])
    assert cache[:, 0].count_nonzero() == 0
