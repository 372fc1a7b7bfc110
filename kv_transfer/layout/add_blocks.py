"""Adds up blocks by the kernel that a device has for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kv_transfer.layout.device_checksum import (
    MULTIPLIER,
    WORD_BYTES,
    AddWords,
    add_by_torch,
    index_on,
)

log = logging.getLogger(__name__)


def add_blocks(
    total: Tensor, memory: Tensor, block_bytes: int, blocks: Sequence[int], first: int
) -> None:
    """Add the weighted words of blocks of `memory`, uint8 [num_bytes], to `total`, int64 [1].

    blocks[0] has the place `first`.
    """
    words = memory.view(torch.int64).view(-1, block_bytes // WORD_BYTES)
    adder(memory.device)(total, words, index_on(memory.device, [first, *blocks]))


@cache
def adder(device: torch.device) -> AddWords:
    """The fused kernel where there is Triton and the device runs it, or else torch's kernels.

    Tries the kernel when it is called first, which compiles it and waits for the device: that is
    when a worker allocates its cache. Nothing compiles later, as the kernel has one variant.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return add_by_torch
    try:
        from kv_transfer.layout.checksum_kernel import add_by_triton

        _check(add_by_triton, device)
    except Exception as error:  # noqa: BLE001  # compilers fail in many ways, and none matters here
        log.warning("checksums are computed without Triton: %s", error)
        return add_by_torch
    return add_by_triton


def _check(add: AddWords, device: torch.device) -> None:
    """Raises RuntimeError when `add` gives other sums than torch."""
    words = torch.arange(-3000, 3000, device=device).view(2, -1) * MULTIPLIER
    totals = torch.zeros(2, 1, dtype=torch.int64, device=device)
    index = index_on(device, [5, 1, 0])
    add(totals[0], words, index)
    add_by_torch(totals[1], words, index)
    found, expected = totals.flatten().tolist()
    if found != expected:
        raise RuntimeError(f"a kernel that sums words found {found}, which are {expected}")
