"""Says why PyTorch has no CUDA device, in its own words."""

from __future__ import annotations

import warnings

import torch

_NO_DRIVER = "no NVIDIA driver"
_WHERE_DRIVERS_LIE = (
    " (libcuda.so.1 is not found: in a container LD_LIBRARY_PATH must name the driver's directory, "
    "such as /usr/local/nvidia/lib64)"
)


def cuda_problem() -> str | None:
    """PyTorch's reason for having no CUDA device, and what to do; None where it has one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA; install its build for CUDA"
    said = [str(warning.message) for warning in caught] or [_error_of_init()]
    reason = said[0].strip().splitlines()[0].partition(" (Triggered internally")[0]
    return reason + (_WHERE_DRIVERS_LIE if _NO_DRIVER in reason else "")


def _error_of_init() -> str:
    """PyTorch warns of its driver once in a process; the error of initialization comes always."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error) or type(error).__name__
    return "it finds no device"
