"""UCX's settings that a worker needs, beside those that its user has chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FABRIC_ONLY = {"self", "tcp", "ib", "rc", "rc_x", "rc_v", "rc_mlx5", "ud", "ud_x", "dc", "dc_x"}
"""UCX transports by which no process writes directly into another's memory."""
WITHIN_PROCESS = {"cuda_copy", "gdr_copy"}
"""UCX transports that copy between host and device memory of one process."""
SEES_GPUS = {"all", "cuda", "cuda_copy", "\\cuda_copy"}
"""Items of UCX_TLS, one of which NIXL insists on where there is an NVIDIA GPU."""
PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")


def missing_settings(chosen: Mapping[str, str], *, device: str, has_gpu: bool) -> dict[str, str]:
    """Settings to add to those that were `chosen`, for a pool on `device`."""
    settings = {
        "UCX_LOG_FILE": "stderr",  # otherwise it writes to standard output
        # Otherwise an agent's own thread spins on UCX's lock for as long as a write copies.
        "UCX_USE_MT_MUTEX": "y",
    }
    if device != "cpu":
        # UCX then asks the driver what an address is, rather than a cache that relies on hooks.
        settings["UCX_MEMTYPE_CACHE"] = "n"
    missing = {name: value for name, value in settings.items() if name not in chosen}
    tls = chosen.get("UCX_TLS")
    if has_gpu and tls and not sees_gpus(tls):
        missing["UCX_TLS"] = f"{tls},cuda_copy"
    return missing


def sees_gpus(tls: str) -> bool:
    """Whether NIXL takes this UCX_TLS where there is an NVIDIA GPU; what excludes is left alone."""
    return tls.startswith("^") or not SEES_GPUS.isdisjoint(tls.split(","))


def has_direct_access(tls: str) -> bool:
    """Whether UCX_TLS allows a process to write directly into another's memory."""
    return tls.startswith("^") or not set(tls.split(",")) <= FABRIC_ONLY | WITHIN_PROCESS


def has_nvidia_gpu(devices: Path = PCI_DEVICES) -> bool:
    """Whether the PCI bus has an NVIDIA GPU, found as NIXL finds it: containers see all of them."""
    return any(
        _read(device / "vendor") == NVIDIA and _read(device / "class").startswith(DISPLAY_CLASSES)
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
