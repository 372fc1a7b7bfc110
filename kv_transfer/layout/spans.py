"""Spans: contiguous copies from a source pool to a destination pool, as rows of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]


class Span(NamedTuple):
    """One contiguous copy; offsets and size are bytes from the starts of both pools."""

    source_offset: int
    destination_offset: int
    num_bytes: int


def block_spans(
    sources: Sequence[int] | Offsets,
    destinations: Sequence[int] | Offsets,
    block_bytes: int,
    part: slice | None = None,
) -> Offsets:
    """Copies of blocks of one size from sources[i] to destinations[i], int64 [n, 3] as in `Span`.

    `part` is the range of bytes that is copied of each block, None stands for all.
    """
    start, stop = (0, block_bytes) if part is None else (part.start, part.stop)
    spans = np.empty((len(sources), 3), np.int64)
    spans[:, 0] = np.asarray(sources, np.int64) * block_bytes + start
    spans[:, 1] = np.asarray(destinations, np.int64) * block_bytes + start
    spans[:, 2] = stop - start
    return spans


def merge(pieces: Offsets) -> Offsets:
    """The fewest spans that copy what `pieces` ([n, 3], any order, disjoint in target) copy."""
    if not len(pieces):
        return pieces
    targets = pieces[:, 1]
    if (targets[1:] < targets[:-1]).any():
        pieces = pieces[np.argsort(targets, kind="stable")]
    ends = pieces[:-1, :2] + pieces[:-1, 2:]
    apart = (ends != pieces[1:, :2]).any(axis=1)
    firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    spans: Offsets = pieces[firsts]
    spans[:, 2] = np.add.reduceat(pieces[:, 2], firsts)
    return spans
