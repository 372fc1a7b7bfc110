"""One step through compiled layers.

Steps of few rows are one call for all layers. There each row is computed for itself, in an order of
operations that depends on its own sequence alone: neither how tokens were cut into steps nor what
else is in the batch changes a bit. Steps of more rows leave their products to PyTorch, whose
results differ from these by float32 rounding; attention is the same in both. Of their last layer,
rows that nobody samples from need keys and values only.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from engine.attention.backend import Span
from engine.kernels import library
from engine.model.linear import Linear
from engine.model.native import NativeDecoder

_FLOAT_BYTES = 4
_WORTH_SHARING = 8 << 20
"""Bytes of a layer's weights, times rows: with less, threads wait for each other longer than they
compute."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Float32 cosines and sines [n, head_size / 2], by position or by row of the step."""

    cosines: Tensor
    sines: Tensor
    by_position: bool


class NativeStep:
    """Float32 `hidden` [tokens, hidden_size], which each layer in turn changes in place.

    The last layer may leave nothing but the rows `drawn`, which are sampled from, in order.
    See engine.model.transformer.Computation.
    """

    def __init__(
        self,
        decoder: NativeDecoder,
        hidden: Tensor,
        turns: Turns,
        spans: Seq[Span],
        cache: Tensor,
        drawn: Seq[int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._turns = turns
        self._spans = spans
        self._cache = decoder.cache_structure(cache)
        self._has_few_rows = len(hidden) <= decoder.few_rows
        prunes = drawn is not None and not self._has_few_rows and len(drawn) <= decoder.few_rows
        self._drawn = drawn if prunes else None
        self._take(hidden, spans, packs=self._has_few_rows)

    def _take(self, hidden: Tensor, spans: Seq[Span], *, packs: bool) -> None:
        """Compute these rows from now on; `packs` says that kernels make their products."""
        decoder, turns, rows = self._decoder, self._turns, len(hidden)
        self._hidden = hidden
        narrow, wide = rows * decoder.narrow, rows * decoder.wide
        packed = rows * decoder.packed if packs else 0
        self._memory = decoder.scratch(narrow + wide + packed)
        self._tables = _span_table(spans)
        begin = self._memory.data_ptr()
        self._step = library.Step(
            rows,
            len(spans),
            torch.get_num_threads(),
            turns.by_position,
            self._tables[0].buffer_info()[0],
            self._tables[1].buffer_info()[0],
            turns.cosines.data_ptr(),
            turns.sines.data_ptr(),
            hidden.data_ptr(),
            begin,
            begin + _FLOAT_BYTES * narrow,
            begin + _FLOAT_BYTES * (narrow + wide),
        )

    def layers(self, begin: int, end: int) -> None:
        threads, rows = self._decoder.threads, len(self._hidden)
        worth_sharing = threads.may_grow and rows * self._decoder.layer_bytes >= _WORTH_SHARING
        if self._has_few_rows and not worth_sharing:
            self._step.num_threads = threads.settle()
            self._layers_of_few_rows(begin, end)
            return
        for number in range(begin, end):
            self._step.num_threads = threads.adjust()
            if self._has_few_rows:
                self._layers_of_few_rows(number, number + 1)
            elif self._drawn is not None and number == len(self._decoder.layers) - 1:
                self._last_layer(number, self._drawn)
            else:
                self._layer_of_many_rows(number)

    def finish(self) -> Tensor:
        decoder, hidden = self._decoder, self._hidden
        weight = decoder.parameters.final_norm.data_ptr()
        decoder.kernels.normalize(decoder.model, weight, self._step, hidden.data_ptr())
        return hidden

    def _layers_of_few_rows(self, begin: int, end: int) -> None:
        decoder = self._decoder
        decoder.kernels.layers(decoder.model, decoder.layers, self._cache, self._step, begin, end)

    def _layer_of_many_rows(self, number: int) -> None:
        decoder, step, inner = self._decoder, self._step, self._decoder.config.intermediate_size
        kernels, model, rows = decoder.kernels, decoder.model, len(self._hidden)
        layer, structure = decoder.parameters.layers[number], decoder.layers[number]
        narrow, wide = self._memory, self._memory[rows * decoder.narrow :]
        normed, attended = _rows(narrow, rows, layer.gate_up), _rows(narrow, rows, layer.output)
        gated = _rows(wide[rows * 2 * inner :], rows, layer.down)

        self._make_queries(number)
        kernels.attend(model, structure, self._cache, step, number)
        decoder.add_product(layer.output, attended, self._hidden, keep=True)
        kernels.normalize(model, structure.post_attention_norm, step, normed.data_ptr())
        decoder.add_product(layer.gate_up, normed, _outputs(wide, rows, layer.gate_up), keep=False)
        kernels.gate(model, step)
        decoder.add_product(layer.down, gated, self._hidden, keep=True)

    def _last_layer(self, number: int, drawn: Seq[int]) -> None:
        """Keys and values of all rows; what follows of those alone that are sampled from."""
        decoder, structure = self._decoder, self._decoder.layers[number]
        made = self._make_queries(number)
        decoder.kernels.place(decoder.model, structure, self._cache, self._step, number)
        chosen = torch.tensor(drawn, dtype=torch.int64)
        queries, hidden = made[chosen], self._hidden[chosen]
        self._take(hidden, _spans_of(drawn, self._spans), packs=True)
        self._memory[len(chosen) * decoder.narrow :][: queries.numel()] = queries.flatten()
        if drawn:
            decoder.kernels.complete(decoder.model, structure, self._cache, self._step, number)

    def _make_queries(self, number: int) -> Tensor:
        """Queries, keys and values of all rows, [rows, outputs], where kernels find them."""
        decoder, rows, step = self._decoder, len(self._hidden), self._step
        layer, norm = decoder.parameters.layers[number].qkv, decoder.layers[number].input_norm
        normed = _rows(self._memory, rows, layer)
        made = _outputs(self._memory[rows * decoder.narrow :], rows, layer)
        decoder.kernels.normalize(decoder.model, norm, step, normed.data_ptr())
        decoder.add_product(layer, normed, made, keep=False)
        return made


def _spans_of(rows: Seq[int], spans: Seq[Span]) -> list[Span]:
    """Each of these rows of the step as a span of its own."""
    ends = list(accumulate(span.count for span in spans))
    found = []
    for row in rows:
        number = bisect_right(ends, row)
        span = spans[number]
        found.append(Span(span.end - (ends[number] - row), 1, span.blocks))
    return found


def _rows(memory: Tensor, rows: int, linear: Linear) -> Tensor:
    """[rows, inputs] at the front of `memory`."""
    return memory[: rows * linear.inputs].view(rows, linear.inputs)


def _outputs(memory: Tensor, rows: int, linear: Linear) -> Tensor:
    """[rows, outputs] at the front of `memory`."""
    return memory[: rows * linear.outputs].view(rows, linear.outputs)


def _span_table(spans: Seq[Span]) -> tuple[array[int], array[int]]:
    """Rows of (first row, start, count, index of its first block), and all blocks."""
    table: list[int] = []
    blocks: list[int] = []
    row = 0
    for span in spans:
        table += (row, span.start, span.count, len(blocks))
        blocks += span.blocks
        row += span.count
    return _packed("q", table), _packed("i", blocks)


def _packed(kind: str, numbers: list[int]) -> array[int]:
    """An array of them; by way of bytes, which takes a third of the time."""
    return array(kind, struct.pack(f"{len(numbers)}{kind}", *numbers))
