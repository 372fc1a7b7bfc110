"""Tells whether Triton's kernels can be used, which comes with PyTorch's builds for CUDA."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from subprocess import CalledProcessError

import torch
from torch import Tensor

from engine.errors import KernelError

log = logging.getLogger(__name__)

CAPABILITY = (8, 0)
"""Older GPUs have no bfloat16."""
SCALED_CAPABILITY = (8, 9)
"""Older GPUs do not know the numbers of 8 bits in scaled caches."""


@cache
def has_triton() -> bool:
    return find_spec("triton") is not None


def uses_triton(device: torch.device, *, scaled: bool = False) -> bool:
    """Whether kernels can be compiled and launched; `scaled`: for a cache of 8 bits, too.

    The first call for a device tries it, and warns when it fails: PyTorch's operations serve then.
    """
    if device.type != "cuda" or not has_triton():
        return False
    capability = SCALED_CAPABILITY if scaled else CAPABILITY
    return torch.cuda.get_device_capability(device) >= capability and _launches(device)


@cache
def _launches(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return try_triton(torch.empty(1, dtype=torch.int32, device=device))


def try_triton(target: Tensor) -> bool:
    """Launch a kernel that writes to `target`, int32 [1]; False, with a warning, if that fails.

    Whether there are a folder for what Triton compiles, a C compiler for the function that launches
    a kernel, and Python's headers for it, turns out when the first kernel is launched.
    """
    try:
        _launch(target)
    except (ImportError, KernelError) as error:
        log.warning("PyTorch's operations serve, at a fraction of the speed: Triton: %s", error)
        return False
    return True


def _launch(target: Tensor) -> None:
    """Triton's errors, and those of what it calls, become a KernelError."""
    from triton.errors import TritonError

    from engine.cuda.operations import write_one

    try:
        write_one(target)
    except CalledProcessError as error:
        problem = f"{error.cmd[0]} failed; it needs Python.h (package python3-dev)"
        raise KernelError(problem) from error
    except (OSError, RuntimeError, TritonError) as error:
        raise KernelError(str(error) or type(error).__name__) from error
