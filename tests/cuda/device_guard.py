"""A device guard that does nothing, so that a build of PyTorch for CPUs has fake CUDA tensors."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from engine.kernels.build import default_cache
from engine.kernels.lock import only_one

_SOURCE = Path(__file__).with_name("guard.cpp")
_FLAGS = ("-std=c++20", "-O1", "-shared", "-fPIC")
_LIMIT_S = 300


@cache
def set_device_guard() -> None:
    """Compiles it once a machine; skips the test where there is a real device, or no compiler."""
    if torch.cuda.is_available():
        pytest.skip("a machine with a GPU needs no fake one")
    ctypes.CDLL(str(_library())).set_guard()


def _library() -> Path:
    digest = hashlib.blake2b(_SOURCE.read_bytes() + torch.__version__.encode(), digest_size=12)
    library = default_cache() / f"device-guard-{digest.hexdigest()}.so"
    if not library.exists():
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("needs a C++ compiler")
        library.parent.mkdir(parents=True, exist_ok=True)
        with only_one(library.with_suffix(".lock"), _LIMIT_S):
            if not library.exists():
                _compile(compiler, library)
    return library


def _compile(compiler: str, library: Path) -> None:
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder, library.name)
        places = (f"-I{root / 'include'}", f"-L{root / 'lib'}")
        command = [compiler, *_FLAGS, str(_SOURCE), *places, "-lc10", "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)
        made.replace(library)
