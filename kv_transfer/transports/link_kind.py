"""The kind of link that two workers have, and the rate that such a link should give."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wire.identity import ProcessRef

ROOT = Path("/")
NETWORK_SHARE = 0.25
"""The least part of a network adapter's nominal rate that a link should give."""
UNKNOWN_NETWORK_BYTES_PER_S = 100e6
GPU_BYTES_PER_S = 20e9
"""The least rate between two GPUs of a host: NVLink gives 100 to 450 GB/s in one direction, PCIe of
the fourth and fifth generation 20 to 50, and TCP 1 to 5."""


class LinkKind(enum.Enum):
    PROCESS = "one process"
    GPUS = "GPUs of one host"
    SHARED_MEMORY = "shared memory"
    LOOPBACK = "loopback network"
    GPU_NETWORK = "network between GPUs"
    NETWORK = "network"


CHECK_NETWORK = "check which network UCX has found (UCX_NET_DEVICES, UCX_TLS)"
CHECK_NVLINK = (
    "NVLink and CUDA IPC are not used, so blocks go by TCP or through host memory. Usual causes: "
    "workers in PID namespaces of their own, as containers are without hostPID and hostIPC; a "
    "container that is not shown the other's GPU; a UCX_TLS without cuda_ipc and cuda_copy; GPUs "
    "that nothing but PCIe connects (nvidia-smi topo -m)"
)
CHECK_GPUDIRECT = (
    f"{CHECK_NETWORK}, and that it reads GPU memory itself: GPUDirect RDMA needs the kernel module "
    "nvidia_peermem, or dma-buf, and an adapter near the GPU"
)


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """The kind of a link, `why` in words for the log, the least rate that it should give, and what
    to check where it does not."""

    kind: LinkKind
    why: str
    least_bytes_per_s: float
    advice: str = CHECK_NETWORK


def estimate_link(
    ours: ProcessRef,
    theirs: ProcessRef,
    *,
    direct_access: bool,
    between_gpus: bool = False,
    root: Path = ROOT,
) -> LinkEstimate:
    """Estimate a link from where the two processes are, and whether both caches lie on GPUs.

    `direct_access` says whether the transport may copy between processes of one host; sys/ is read
    below `root`.
    """
    if ours == theirs:
        return LinkEstimate(LinkKind.PROCESS, "both workers are this process", 500e6)
    if ours.host == theirs.host and between_gpus:
        why = "two GPUs of this host"
        return LinkEstimate(LinkKind.GPUS, why, GPU_BYTES_PER_S, CHECK_NVLINK)
    if ours.host == theirs.host and direct_access:
        why = "both on this host, and the transport may use direct memory access"
        return LinkEstimate(LinkKind.SHARED_MEMORY, why, 500e6)
    if ours.host == theirs.host:
        why = "both on this host, but the transport is kept from direct memory access"
        return LinkEstimate(LinkKind.LOOPBACK, why, 100e6)
    kind, advice = LinkKind.NETWORK, CHECK_NETWORK
    if between_gpus:
        kind, advice = LinkKind.GPU_NETWORK, CHECK_GPUDIRECT
    rate, adapter = max(_adapters(root), default=(0.0, ""))
    if not rate:
        why = "on different hosts; no network adapter tells its rate"
        return LinkEstimate(kind, why, UNKNOWN_NETWORK_BYTES_PER_S, advice)
    why = f"on different hosts; the fastest adapter, {adapter}, has {rate / 1e9:.3g} GB/s"
    return LinkEstimate(kind, why, rate * NETWORK_SHARE, advice)


def _adapters(root: Path) -> Iterator[tuple[float, str]]:
    """(bytes per second, name) of every network adapter whose rate the kernel knows."""
    for path in root.glob("sys/class/infiniband/*/ports/*/rate"):
        with suppress(OSError, ValueError, IndexError):  # "400 Gb/sec (4X NDR)"
            yield float(path.read_text().split()[0]) * 1e9 / 8, path.parts[-4]
    for path in root.glob("sys/class/net/*/speed"):
        with suppress(OSError, ValueError):  # Mb/s, or -1; an adapter that is down has none
            yield max(0.0, float(path.read_text()) * 1e6 / 8), path.parts[-2]
