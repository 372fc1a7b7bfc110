"""The NVIDIA GPUs that this process may use, without asking PyTorch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+")
_NONE = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that hide all GPUs."""


def visible_gpus(
    environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")
) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; where it is not set, the numbers of all."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [] if hides_all(given) else [name.strip() for name in given.split(",")]
    return [str(number) for number in range(len(device_files(devices)))]


def hides_all(visible: str) -> bool:
    """Whether this value of CUDA_VISIBLE_DEVICES hides all GPUs."""
    return visible.strip() in _NONE


def device_files(devices: Path) -> list[str]:
    """Names of the files in /dev that stand for one GPU each; WSL shows all GPUs as one."""
    found = sorted(it.name for it in devices.glob("nvidia*") if _DEVICE.fullmatch(it.name))
    if not found and (devices / "dxg").exists() and Path("/usr/lib/wsl/lib/libcuda.so.1").exists():
        return ["dxg"]
    return found
