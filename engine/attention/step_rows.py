"""Which rows of a step are decode rows, and which are chunks of prompts."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.device.to_device import to_device

PlacedRows = tuple[int, SequenceRows]
"""A sequence's first row among the step's tokens, and the sequence."""


def split_step(sequences: Seq[SequenceRows]) -> tuple[list[PlacedRows], list[PlacedRows]]:
    """Decode rows, of one token each, and chunks, of several."""
    rows, chunks, first = list[PlacedRows](), list[PlacedRows](), 0
    for sequence in sequences:
        (rows if sequence.count == 1 else chunks).append((first, sequence))
        first += sequence.count
    return rows, chunks


def row_index(placed: Seq[PlacedRows], device: torch.device) -> slice | Tensor:
    """These sequences' rows: a slice where they are neighbours, which costs no copy, or [n]."""
    first, (last, sequence) = placed[0][0], placed[-1]
    end = last + sequence.count
    if end - first == sum(sequence.count for _, sequence in placed):
        return slice(first, end)
    rows = [row for begin, sequence in placed for row in range(begin, begin + sequence.count)]
    return to_device(rows, device)
