"""One step through compiled layers.

Steps of few rows are one call for all layers. There each row is computed for itself, in an order of
operations that depends on its own sequence alone: neither how tokens were cut into steps nor what
else is in the batch changes a bit. Steps of more rows leave their products to PyTorch, whose
results differ from these by float32 rounding; attention is the same in both.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention.backend import Span
from engine.kernels import library
from engine.model.linear import Linear
from engine.model.native import NativeDecoder

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Turns:
    """Float32 cosines and sines [n, head_size / 2], by position or by row of the step."""

    cosines: Tensor
    sines: Tensor
    by_position: bool


class NativeStep:
    """Float32 `hidden` [tokens, hidden_size], which each layer in turn changes in place.

    See engine.model.transformer.Computation.
    """

    def __init__(
        self,
        decoder: NativeDecoder,
        hidden: Tensor,
        turns: Turns,
        spans: Seq[Span],
        cache: Tensor,
    ) -> None:
        self._decoder = decoder
        self._hidden = hidden
        rows = len(hidden)
        self._has_few_rows = rows <= decoder.few_rows
        narrow, wide = rows * decoder.narrow, rows * decoder.wide
        packed = rows * decoder.packed if self._has_few_rows else 0
        self._memory = decoder.scratch(narrow + wide + packed)
        self._cache = decoder.cache_structure(cache)
        self._kept = turns, *_span_table(spans)
        begin = self._memory.data_ptr()
        self._step = library.Step(
            rows,
            len(spans),
            torch.get_num_threads(),
            turns.by_position,
            self._kept[1].buffer_info()[0],
            self._kept[2].buffer_info()[0],
            turns.cosines.data_ptr(),
            turns.sines.data_ptr(),
            hidden.data_ptr(),
            begin,
            begin + _FLOAT_BYTES * narrow,
            begin + _FLOAT_BYTES * (narrow + wide),
        )

    def layers(self, begin: int, end: int) -> None:
        decoder = self._decoder
        if self._has_few_rows:
            whole = decoder.model, decoder.layers, self._cache, self._step, begin, end
            decoder.kernels.layers(*whole)
        else:
            for number in range(begin, end):
                self._layer_of_many_rows(number)

    def finish(self) -> Tensor:
        decoder, hidden = self._decoder, self._hidden
        self._step.num_threads = decoder.threads.settle()
        weight = decoder.parameters.final_norm.data_ptr()
        decoder.kernels.normalize(decoder.model, weight, self._step, hidden.data_ptr())
        return hidden

    def _layer_of_many_rows(self, number: int) -> None:
        decoder, step, inner = self._decoder, self._step, self._decoder.config.intermediate_size
        kernels, model, rows = decoder.kernels, decoder.model, len(self._hidden)
        layer, structure = decoder.parameters.layers[number], decoder.layers[number]
        narrow, wide = self._memory, self._memory[rows * decoder.narrow :]
        normed, attended = _rows(narrow, rows, layer.qkv), _rows(narrow, rows, layer.output)
        gated = _rows(wide[rows * 2 * inner :], rows, layer.down)

        step.num_threads = decoder.threads.adjust()
        kernels.normalize(model, structure.input_norm, step, normed.data_ptr())
        decoder.add_product(layer.qkv, normed, _outputs(wide, rows, layer.qkv), keep=False)
        kernels.attend(model, structure, self._cache, step, number)
        decoder.add_product(layer.output, attended, self._hidden, keep=True)
        kernels.normalize(model, structure.post_attention_norm, step, normed.data_ptr())
        decoder.add_product(layer.gate_up, normed, _outputs(wide, rows, layer.gate_up), keep=False)
        kernels.gate(model, step)
        decoder.add_product(layer.down, gated, self._hidden, keep=True)


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
    return array("q", table), array("i", blocks)
