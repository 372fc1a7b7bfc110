"""One step through compiled layers.

All layers are one call, or one call each where the number of threads may change between them. In
the last layer, rows that are not sampled from are computed up to their keys and values only.
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

from engine.attention.backend import SequenceRows
from engine.kernels import library
from engine.model.native import NativeDecoder

_FLOAT_BYTES = 4
_WORTH_SHARING = 8 << 20
"""Bytes of a layer's weights, times rows: below this, more threads cost more than they gain."""


@dataclass(frozen=True, slots=True)
class Rotations:
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
        rotations: Rotations,
        sequences: Seq[SequenceRows],
        cache: Tensor,
        drawn: Seq[int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._rotations = rotations
        self._sequences = sequences
        self._cache = decoder.cache_structure(cache)
        self._drawn = drawn if drawn is not None and len(drawn) < len(hidden) else None
        self._take(hidden, sequences)

    def _take(self, hidden: Tensor, sequences: Seq[SequenceRows]) -> None:
        """Compute these rows in the following calls."""
        decoder, rotations, rows = self._decoder, self._rotations, len(hidden)
        self._hidden = hidden
        narrow, wide = rows * decoder.narrow, rows * decoder.wide
        self._memory = decoder.scratch(narrow + wide + decoder.packed_size(rows))
        self._tables = _sequence_table(sequences)
        begin = self._memory.data_ptr()
        self._step = library.StepArguments(
            rows,
            len(sequences),
            torch.get_num_threads(),
            rotations.by_position,
            self._tables[0].buffer_info()[0],
            self._tables[1].buffer_info()[0],
            rotations.cosines.data_ptr(),
            rotations.sines.data_ptr(),
            hidden.data_ptr(),
            begin,
            begin + _FLOAT_BYTES * narrow,
            begin + _FLOAT_BYTES * (narrow + wide),
        )

    def layers(self, begin: int, end: int) -> None:
        threads, rows = self._decoder.threads, len(self._hidden)
        if not threads.may_grow or rows * self._decoder.layer_bytes < _WORTH_SHARING:
            self._step.num_threads = threads.settle()
            self._run(begin, end)
            return
        for number in range(begin, end):
            self._step.num_threads = threads.adjust()
            self._run(number, number + 1)

    def finish(self) -> Tensor:
        decoder, hidden = self._decoder, self._hidden
        weight = decoder.parameters.final_norm.data_ptr()
        decoder.kernels.normalize(decoder.model, weight, self._step, hidden.data_ptr())
        return hidden

    def _run(self, begin: int, end: int) -> None:
        decoder, last = self._decoder, len(self._decoder.layers) - 1
        whole = end if self._drawn is None else min(end, last)
        decoder.kernels.layers(decoder.model, decoder.layers, self._cache, self._step, begin, whole)
        if self._drawn is not None and end > last:
            self._last_layer(last, self._drawn)

    def _last_layer(self, number: int, drawn: Seq[int]) -> None:
        """Compute keys and values of all rows, and the rest for rows that are sampled from."""
        decoder, structure = self._decoder, self._decoder.layers[number]
        kernels, model, cache = decoder.kernels, decoder.model, self._cache
        kernels.begin_layer(model, structure, cache, self._step, number)
        chosen, rows = torch.tensor(drawn, dtype=torch.int64), len(self._hidden)
        made = self._memory[rows * decoder.narrow :]
        outputs = structure.qkv.outputs
        queries = made[: rows * outputs].view(rows, outputs)[chosen]
        self._take(self._hidden[chosen], _rows_as_sequences(drawn, self._sequences))
        self._memory[len(chosen) * decoder.narrow :][: queries.numel()] = queries.flatten()
        if drawn:
            kernels.complete_layer(model, structure, cache, self._step, number)


def _rows_as_sequences(rows: Seq[int], sequences: Seq[SequenceRows]) -> list[SequenceRows]:
    """Each of these rows of the step as a sequence of one row."""
    ends = list(accumulate(sequence.count for sequence in sequences))
    found = []
    for row in rows:
        number = bisect_right(ends, row)
        sequence = sequences[number]
        found.append(SequenceRows(sequence.end - (ends[number] - row), 1, sequence.blocks))
    return found


def _sequence_table(sequences: Seq[SequenceRows]) -> tuple[array[int], array[int]]:
    """Rows of (first row, start, count, index of its first block), and all blocks."""
    table: list[int] = []
    blocks: list[int] = []
    row = 0
    for sequence in sequences:
        table += (row, sequence.start, sequence.count, len(blocks))
        blocks += sequence.blocks
        row += sequence.count
    return _packed("q", table), _packed("i", blocks)


def _packed(kind: str, numbers: list[int]) -> array[int]:
    """The numbers as an array; by way of bytes, which takes a third of the time."""
    return array(kind, struct.pack(f"{len(numbers)}{kind}", *numbers))
