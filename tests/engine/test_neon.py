"""Kernels of NEON's width, compiled by a cross compiler and run by an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from engine.kernels import build

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CHECK = Path(__file__).parent / "native" / "check.cpp"


@pytest.mark.long
def test_neon_multiplies_as_plain_loops_do(tmp_path: Path) -> None:
    for tool, package in ((COMPILER, "g++-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, which is in Debian's {package}")
    sources = Path(build.__file__).parent
    products = [str(sources / name) for name in ("products_float.cpp", "products_bf16.cpp")]
    program = str(tmp_path / "check")
    options = ["-std=c++17", "-O3", "-static", f"-I{sources}", "-o", program]
    compiled = subprocess.run(
        [COMPILER, *options, str(CHECK), *products, "-lgomp"], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    checked = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
