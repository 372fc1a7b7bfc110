"""Finds what tells that a process was meant to have an NVIDIA GPU, without asking PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from engine.device.visible_gpus import device_files, hides_all

_ROOT = Path("/")
_NO_DEVICES = ("", "all", "none", "void")
"""Values of NVIDIA_VISIBLE_DEVICES that name no device. "all" does not count: images that are made
from NVIDIA's say it wherever they run."""
_NVIDIA = "0x10de"
_DISPLAYS = "0x03"
"""The PCI class of graphics and compute adapters; NVIDIA's audio and USB functions have others."""
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")


def gpu_sign(environment: Mapping[str, str] = os.environ, root: Path = _ROOT) -> str | None:
    """The first sign of a GPU that is found, in words for a message; None where there is none.

    An environment that hides all GPUs gives none. What tells of the whole machine, the driver's
    /proc and the PCI bus, does not count in a container, which sees both whether or not it has been
    given a GPU. dev/, proc/ and sys/ are read below `root`, in a few milliseconds.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return None if hides_all(visible) else f"CUDA_VISIBLE_DEVICES={visible}"
    if files := device_files(root / "dev"):
        return f"/dev/{files[0]}"
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if given not in _NO_DEVICES:
        return f"NVIDIA_VISIBLE_DEVICES={given}"
    return None if _in_container(environment, root) else _machine_sign(root)


def _in_container(environment: Mapping[str, str], root: Path) -> bool:
    named = "KUBERNETES_SERVICE_HOST" in environment or "container" in environment
    return named or any((root / name).exists() for name in _CONTAINER_FILES)


def _machine_sign(root: Path) -> str | None:
    if any((root / "proc/driver/nvidia/gpus").glob("*")):
        return "/proc/driver/nvidia/gpus"
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text() for name in ("vendor", "class"))
            if vendor.strip() == _NVIDIA and kind.startswith(_DISPLAYS):
                return f"PCI device {device.name} of NVIDIA"
    return None
