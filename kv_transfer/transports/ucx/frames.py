"""Frames: spans with their bytes in messages of bounded size, for a fabric without remote writes.

A frame is int64 [2 + 2 n] (number, n, then n times offset and length in the receiver's pool),
followed by the bytes of all spans, without gaps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets

FRAME_BYTES = 1 << 20
"""The largest frame; either side keeps buffers for a few of them for each rank pair."""

_ROW_BYTES = 16

Bytes = NDArray[np.uint8]


class BadFrame(Exception):
    """The frame leads outside the pool, or contradicts itself; nothing of it was copied."""


def view(region: CacheRegion) -> Bytes:
    """A region of host memory as uint8 [num_bytes]; the region must outlive it."""
    memory = (ctypes.c_uint8 * region.num_bytes).from_address(region.address)
    return np.ctypeslib.as_array(memory)


def split_frames(spans: Offsets) -> Iterator[Offsets]:
    """Split spans, int64 [n, 3], into parts that fit into one frame each; long spans are split."""
    part: list[tuple[int, int, int]] = []
    left = FRAME_BYTES - _ROW_BYTES
    for source, target, num_bytes in spans.tolist():
        sent = 0
        while sent < num_bytes:
            if left <= _ROW_BYTES:
                yield np.array(part, np.int64)
                part, left = [], FRAME_BYTES - _ROW_BYTES
            length = min(num_bytes - sent, left - _ROW_BYTES)
            part.append((source + sent, target + sent, length))
            sent += length
            left -= length + _ROW_BYTES
    if part:
        yield np.array(part, np.int64)


def pack(number: int, memory: Bytes, part: Offsets, frame: Bytes) -> Bytes:
    """Fill `frame` with one part of `split_frames` from our memory; returns the part in use."""
    rows = _rows(frame, len(part))
    rows[0] = number, len(part)
    rows[1:] = part[:, 1:]
    end = rows.nbytes
    for source, _, length in part.tolist():
        frame[end : end + length] = memory[source : source + length]
        end += length
    return frame[:end]


def number_of(frame: Bytes) -> int:
    """The number that the sender has given to this frame."""
    return int(_rows(frame, 0)[0, 0])


def unpack(frame: Bytes, pool: Bytes) -> None:
    """Copy a frame's bytes into the pool. Raises BadFrame."""
    rows = _checked_rows(frame, len(pool))
    start = rows.nbytes
    for offset, length in rows[1:].tolist():
        pool[offset : offset + length] = frame[start : start + length]
        start += length


def _checked_rows(frame: Bytes, pool_bytes: int) -> Offsets:
    num_spans = int(_rows(frame, 0)[0, 1])
    if not 0 <= num_spans < len(frame) // _ROW_BYTES:
        raise BadFrame(f"{num_spans} spans do not fit into a frame")
    rows = _rows(frame, num_spans)
    offsets, lengths = rows[1:, 0], rows[1:, 1]
    # Lengths first, and by subtraction: a sum of wild numbers might wrap around.
    if (lengths < 0).any() or (lengths > pool_bytes).any():
        raise BadFrame("a span has an impossible length")
    if (offsets < 0).any() or (offsets > pool_bytes - lengths).any():
        raise BadFrame(f"a span lies outside the pool of {pool_bytes} bytes")
    if rows.nbytes + int(lengths.sum()) > len(frame):
        raise BadFrame("the spans are longer than a frame")
    return rows


def _rows(frame: Bytes, num_spans: int) -> Offsets:
    """The numbers at a frame's start: int64 [1 + num_spans, 2]."""
    return frame[: (1 + num_spans) * _ROW_BYTES].view(np.int64).reshape(-1, 2)
