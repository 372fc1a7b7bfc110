"""Divides decode rows' contexts among a fixed number of programs, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.cuda import decode_kernels

KEYS = 64
"""Keys that a program loads at a time; every split but a row's last has a multiple of them."""
SHORT = 4 * KEYS
"""Contexts of so many keys are not worth a second kernel, which combines splits."""
_WAVES = 4
"""Programs for each multiprocessor, beyond those for rows."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Items of work: rows' splits, in the order of rows. Layers with one window share them."""

    firsts: Tensor
    """The first item of each row, and the number of items: int32 [rows + 1]."""
    items: Tensor
    """Row, first key, and end of keys: int32 [3, capacity]; those left over have no keys."""
    partial: Tensor
    """Float32 [capacity, heads, head_size]: scratch memory for weighted sums of values."""
    weight: Tensor
    """Float32 [capacity, heads, 2]: their largest scores, in base 2, and sums of weights."""

    @property
    def capacity(self) -> int:
        return self.items.shape[1]


def split_contexts(
    query: Tensor, cache: Tensor, tables: Tensor, positions: Tensor, window: int | None
) -> Splits | None:
    """Splits of the contexts of a step's rows; see engine.cuda.operations.decode.

    They are computed on the device, so that a captured graph divides the contexts of each replay.
    None keeps each context whole: where the tables have room for a few keys only.
    """
    longest = tables.shape[0] * cache.shape[3]
    if min(longest, window or longest) <= SHORT:
        return None
    rows, num_heads, head_size = query.shape
    num_kv_heads = cache.shape[2]
    device = query.device
    capacity = rows + spare_items(device, num_kv_heads)
    splits = Splits(
        firsts=torch.empty(rows + 1, dtype=torch.int32, device=device),
        items=torch.empty(3, capacity, dtype=torch.int32, device=device),
        partial=torch.empty(capacity, num_heads, head_size, dtype=torch.float32, device=device),
        weight=torch.empty(capacity, num_heads, 2, dtype=torch.float32, device=device),
    )
    decode_kernels.plan_splits[(1,)](
        positions,
        splits.firsts,
        splits.items,
        rows,
        capacity,
        WINDOW=window or 0,
        NUM_KEYS=KEYS,
        PADDED_ROWS=max(64, 1 << (rows - 1).bit_length()),
    )
    return splits


def spare_items(device: torch.device, num_kv_heads: int) -> int:
    """Items beyond one for each row: with them the whole device has work, however few the rows."""
    if device.type != "cuda":
        return 3
    wanted = _WAVES * torch.cuda.get_device_properties(device).multi_processor_count
    return -(-wanted // num_kv_heads)
