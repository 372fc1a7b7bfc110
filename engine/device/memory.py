"""Memory of the device: how much is free, and allocations that stay where they are."""

from __future__ import annotations

import ctypes
import math
import mmap
from pathlib import Path

import torch
from torch import Tensor

_ROOT = Path("/")
_HUGE_PAGE_BYTES = 2 << 20


def free_bytes(device: torch.device) -> int:
    """Bytes that this process could still allocate on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return free_host_bytes()


def free_host_bytes(root: Path = _ROOT) -> int:
    """The machine's available memory, or less where a control group allows less.

    `root` is where proc/ and sys/ are found.
    """
    fields = dict(
        line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min([available, *_cgroup_allowances(root)]))


def _cgroup_allowances(root: Path) -> list[int]:
    """Bytes that each control group of this process, version 2 or 1, still allows."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return []
    allowances: list[int | None] = []
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers == "":
            groups = _ancestors(root / "sys/fs/cgroup", path)
            allowances += [_allowance(g, "memory.max", "memory.current") for g in groups]
        elif "memory" in controllers.split(","):
            groups = _ancestors(root / "sys/fs/cgroup/memory", path)
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
            allowances += [_allowance(group, *names) for group in groups]
    return [allowance for allowance in allowances if allowance is not None]


def _ancestors(top: Path, path: str) -> list[Path]:
    """The group at `path` and its ancestors, as far as this process can see them."""
    group = top / path.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]


def _allowance(folder: Path, limit_name: str, usage_name: str) -> int | None:
    """Bytes left in one group, counting page cache that it would give up; None without a limit."""
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        statistics = (folder / "memory.stat").read_text().split()
    except (FileNotFoundError, PermissionError):
        return None
    if limit == "max":
        return None
    pairs = dict(zip(statistics[::2], statistics[1::2], strict=True))
    return int(limit) - usage + int(pairs.get("inactive_file", 0))


def allocate_zeros(num_bytes: int, device: torch.device | str) -> Tensor:
    """Zeros, uint8 [num_bytes]; in host memory page-aligned and never given back.

    Host pages are committed when they are first touched, as huge pages where the system has
    them. They stay mapped until the process ends, since a transport may still be told to write
    to them when their owner is gone. Raises OSError or torch.OutOfMemoryError without memory.
    """
    if torch.device(device).type != "cpu":
        return torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    region = map_huge_pages(num_bytes)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(region))
    return torch.frombuffer(region, dtype=torch.uint8)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized; large tensors in host memory lie in huge pages where the system has them.

    Steps that read all weights have fewer TLB misses then.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes < _HUGE_PAGE_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(map_huge_pages(num_bytes), dtype=dtype).view(shape)


def map_huge_pages(num_bytes: int) -> mmap.mmap:
    """Zeroed pages, committed when they are first touched. Raises OSError without memory."""
    region = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _advise_huge_pages(region)
    return region


def _advise_huge_pages(region: mmap.mmap) -> None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    try:
        region.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return  # a kernel built without them; ordinary pages do
