"""Where compilers of GPU kernels keep what they made: beside the compiled kernels for CPUs."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from engine.errors import KernelError
from engine.kernels.build import default_cache


def set_kernel_caches(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give Triton and FlashInfer folders in TANDEM_CACHE_DIR, before either is imported.

    By themselves they write to the user's home, which a container's user may not have. What the
    environment says already stays.
    """
    try:
        folder = default_cache()
    except KernelError:
        return  # they may know of another; Triton is tried before it is used
    if "TRITON_HOME" not in environment:
        environment.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    environment.setdefault("FLASHINFER_WORKSPACE_BASE", str(folder))
