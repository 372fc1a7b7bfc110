"""Compiles the stub of NVIDIA's driver, with which NIXL and UCX take the way of GPU memory.

UCX's part for CUDA loads libcuda.so.1 and libnvidia-ml.so.1 wherever it finds them. The stub's GPU
is host memory, so that whatever UCX copies "on the GPU" arrives, and a test can look at it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIBRARIES = {"libcuda.so.1": HERE / "driver.c", "libnvidia-ml.so.1": HERE / "nvml.c"}
PCI_DEVICES = "/sys/bus/pci/devices"
H100 = {"vendor": "0x10de", "class": "0x030200", "device": "0x2330"}


@dataclass(frozen=True)
class StubDriver:
    """The stub's libraries, and the log of calls to it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to load the stub."""
        path = [str(self.folder), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(filter(None, path)),
            "STUB_DRIVER_LOG": str(self._log),
        }

    @property
    def calls(self) -> set[str]:
        """The driver's functions that any process has called."""
        return set(self._log.read_text().split()) if self._log.exists() else set()

    @property
    def _log(self) -> Path:
        return self.folder / "calls.log"


def compile_stub(folder: Path) -> StubDriver:
    """Skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    for name, source in LIBRARIES.items():
        flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([compiler, *flags, str(source)], check=True, timeout=60)
    return StubDriver(folder)


def beside_a_gpu(folder: Path) -> list[str]:
    """What a command begins with that is to find a GPU on the PCI bus, as NIXL looks for one.

    Skips the test where no file system may be mounted.
    """
    device = folder / "0000:00:0a.0"
    device.mkdir()
    for name, value in H100.items():
        (device / name).write_text(f"{value}\n")
    mounted = f'mount --bind "$0" {PCI_DEVICES} && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mounted, str(folder)]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount a PCI bus: {error}")
    return prefix
