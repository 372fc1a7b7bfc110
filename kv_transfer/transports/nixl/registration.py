"""Registers memory with a NIXL agent, and says what stands in the way where that fails."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

from kv_transfer.errors import TransferError
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.nixl.agent import NIXL_ERRORS, described
from kv_transfer.transports.nixl.bindings import MODULE
from kv_transfer.transports.nixl.pool import mem_type_of

CUDA_MAJOR = int(MODULE.removeprefix("nixl_cu"))
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", f"libcudart.so.{CUDA_MAJOR}")
"""Libraries without which UCX does not load its part for CUDA: the driver's, and PyTorch's."""
MIB = 1024 * 1024


def register(agent: Any, region: CacheRegion) -> Any:
    """Register a region; returns what `deregister` takes. Raises TransferError."""
    mem_type, device_id = mem_type_of(region.device)
    try:
        return agent.register_memory([(region.address, region.num_bytes, device_id, "")], mem_type)
    except NIXL_ERRORS as error:
        raise TransferError(
            f"NIXL cannot register {region.num_bytes / MIB:.0f} MiB of memory on {region.device} "
            f"({described(error)}; its reason is in the lines above): {advice(region.device)}"
        ) from error


def deregister(agent: Any, registered: Any) -> None:
    agent.deregister_memory(registered)


def advice(device: str, problem_of: Callable[[str], str | None] | None = None) -> str:
    """What to look at when memory of that kind of device cannot be registered."""
    if device == "cpu":
        return (
            "an RDMA adapter locks it in memory, so set the limit for that to unlimited (ulimit -l)"
        )
    problems = list(_problems(problem_of or load_problem))
    if problems:
        return (
            f"{'; '.join(problems)}. GPU memory needs a driver for CUDA {CUDA_MAJOR}, whose "
            "libraries are found (LD_LIBRARY_PATH; /usr/local/nvidia/lib64 in containers on GKE), "
            f"and a PyTorch for CUDA {CUDA_MAJOR} beside {MODULE}"
        )
    return (
        f"{', '.join(LIBRARIES)} are there, so UCX is kept from asking the driver (UCX_TLS must "
        "include cuda_copy, UCX_MODULES must not exclude cuda, and UCX_MEMTYPE_CACHE must be n), "
        "or the driver has refused"
    )


def load_problem(library: str) -> str | None:
    """Why the dynamic loader does not find a library; None where it does."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def _problems(problem_of: Callable[[str], str | None]) -> Iterator[str]:
    for library in LIBRARIES:
        if (problem := problem_of(library)) is not None:
            yield problem
