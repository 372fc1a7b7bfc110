"""One step through compiled layers.

Steps of few rows are one call a layer. There each row is computed for itself, in an order of
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
        self._memory = decoder.scratch(len(hidden) * (decoder.narrow + decoder.wide))
        self._cache = library.Cache(cache.data_ptr(), cache.shape[1], cache.shape[4])
        self._kept = turns, *_span_table(spans)
        begin = self._memory.data_ptr()
        self._step = library.Step(
            len(hidden),
            len(spans),
            torch.get_num_threads(),
            turns.by_position,
            self._kept[1].buffer_info()[0],
            self._kept[2].buffer_info()[0],
            turns.cosines.data_ptr(),
            turns.sines.data_ptr(),
            hidden.data_ptr(),
            begin,
            begin + len(hidden) * decoder.narrow * hidden.element_size(),
        )

    def layer(self, number: int) -> None:
        decoder = self._decoder
        if len(self._hidden) > decoder.few_rows:
            self._layer_of_many_rows(number)
        else:
            arguments = decoder.model, decoder.layers[number], self._cache, self._step, number
            decoder.kernels.layer(*arguments)

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
        layer.qkv.add_to(_outputs(wide, rows, layer.qkv), normed, keep=False)
        kernels.attend(model, structure, self._cache, step, number)
        layer.output.add_to(self._hidden, attended, keep=True)
        kernels.normalize(model, structure.post_attention_norm, step, normed.data_ptr())
        layer.gate_up.add_to(_outputs(wide, rows, layer.gate_up), normed, keep=False)
        kernels.gate(model, step)
        layer.down.add_to(self._hidden, gated, keep=True)


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
