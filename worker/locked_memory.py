"""Warns when the limit of locked memory is too low for RDMA, which locks registered memory."""

from __future__ import annotations

import logging
import os
import re
import resource
from collections.abc import Mapping
from pathlib import Path

from worker.config import WorkerConfig

MIB = 1024 * 1024
IPC_LOCK = 14
"""Bit of CapEff for the capability that lifts the limit."""
UCX_FABRICS = re.compile(r"(ib|rc|ud|dc|srd)(_\w+)?")
ADAPTER = re.compile(r"[\w.-]+:\d+")
"""How UCX_NET_DEVICES names an adapter's port; interfaces have no port."""
LIBFABRIC_FABRICS = ("efa", "verbs", "cxi")

log = logging.getLogger(__name__)


def warn_of_locked_memory(config: WorkerConfig) -> None:
    """Log a warning if this process could not register its memory with an RDMA adapter."""
    asked = rdma_asked_for({**os.environ, **config.ucx_env})
    if asked is None or _may_lock_anything():
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit_bytes = None if limit == resource.RLIM_INFINITY else limit
    registered = config.staging_bytes + (config.cache_bytes or 0)
    if warning := locked_memory_problem(asked, limit_bytes, registered):
        log.warning("%s", warning)


def rdma_asked_for(settings: Mapping[str, str]) -> str | None:
    """The setting of UCX or libfabric that asks for RDMA, as NAME=value; None where none does.

    What only allows it, such as UCX_TLS=all, does not ask for it.
    """
    for name, one in (("UCX_TLS", UCX_FABRICS), ("UCX_NET_DEVICES", ADAPTER)):
        value = settings.get(name, "")
        if not value.startswith("^") and any(one.fullmatch(it) for it in value.split(",")):
            return f"{name}={value}"
    provider = settings.get("FI_PROVIDER", "")
    return f"FI_PROVIDER={provider}" if provider.startswith(LIBFABRIC_FABRICS) else None


def locked_memory_problem(asked: str, limit_bytes: int | None, needed_bytes: int) -> str | None:
    """What is wrong, and what to do; None for a limit that suffices, or no limit, which is None."""
    if limit_bytes is None or limit_bytes >= needed_bytes:
        return None
    return (
        f"{asked} asks for RDMA, and this process may lock {limit_bytes / MIB:g} MiB of memory "
        f"(RLIMIT_MEMLOCK), less than the {needed_bytes / MIB:g} MiB that it registers: blocks "
        "will not travel by RDMA, or links will fail. Set the limit to unlimited on the node "
        "(LimitMEMLOCK=infinity of its container runtime, or ulimit -l), or run as root with the "
        "capability IPC_LOCK"
    )


def _may_lock_anything() -> bool:
    status = Path("/proc/self/status")
    found = re.search(r"^CapEff:\s*(\w+)", status.read_text(), re.M) if status.exists() else None
    return found is not None and bool(int(found[1], 16) >> IPC_LOCK & 1)
