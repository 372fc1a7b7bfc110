"""Tells whether Triton is available, which comes with PyTorch's builds for CUDA."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch


@cache
def has_triton() -> bool:
    return find_spec("triton") is not None


def uses_triton(device: torch.device) -> bool:
    """From compute capability 8.0 on: older GPUs have no bfloat16."""
    if device.type != "cuda" or not has_triton():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
