"""Asynchronous copies of numbers to a device, and of tensors back to the host.

A copy from or to pinned memory is only queued; torch keeps such memory from being used again
before the copy is over. On a CPU there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KINDS = {
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_DTYPES = {np.dtype(kind).name: dtype for dtype, kind in _KINDS.items()}
_ALIGNMENT = 16
"""Bytes: kernels load that many at a time."""


def to_device(
    values: Seq[int] | Seq[float] | Seq[Seq[int]] | np.ndarray,
    device: torch.device,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Numbers as a tensor, copied in the order of the current stream."""
    numbers = np.array(values, dtype=_KINDS[dtype])  # reads lists ten times as fast as torch does
    if device.type == "cpu":
        return torch.from_numpy(numbers)
    return torch.from_numpy(numbers).pin_memory().to(device, non_blocking=True)


def to_device_together(arrays: Seq[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Arrays of numbers as tensors of their dtypes and shapes, by one copy in the current stream's
    order."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    places = _places(arrays)
    packed = np.zeros(places[-1].stop if places else 0, np.uint8)
    for place, array in zip(places, arrays, strict=True):
        packed[place][: array.nbytes] = np.ravel(array).view(np.uint8)
    there = torch.from_numpy(packed).pin_memory().to(device, non_blocking=True)
    return [
        there[place][: array.nbytes].view(_DTYPES[array.dtype.name]).view(array.shape)
        for place, array in zip(places, arrays, strict=True)
    ]


def _places(arrays: Seq[NDArray[Any]]) -> list[slice]:
    """Where each array lies among all of their bytes."""
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


class PendingHostCopy:
    """Copies of tensors to the host; also marks the end of all work launched before."""

    def __init__(self, device: torch.device, *tensors: Tensor) -> None:
        if device.type == "cpu":
            self._tensors, self._over = tensors, None
            return
        self._tensors = tuple(_pinned_copy(tensor) for tensor in tensors)
        self._over = torch.cuda.current_stream(device).record_event()

    def wait(self) -> tuple[Tensor, ...]:
        """Wait for the copies and for all work launched before them."""
        if self._over is not None:
            self._over.synchronize()
        return self._tensors


def _pinned_copy(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
