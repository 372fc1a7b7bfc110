"""Tells whether FlashInfer can compute a model's attention here, and if not, why."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

TESTED_VERSION = "0.7.4"
DTYPES = (torch.bfloat16, torch.float16)
HEAD_SIZES = (64, 128, 256)
MIN_CAPABILITY = (8, 0)

Which = Callable[[str], str | None]
"""shutil.which on a path that is given."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What is attended with: queries of `dtype`, over keys and values of `cache_dtype`."""

    dtype: torch.dtype
    cache_dtype: torch.dtype
    head_size: int


@dataclass(frozen=True, slots=True)
class FlashInferInstall:
    """What is installed: None without the package; `obstacle` says why kernels cannot be had."""

    version: str | None
    obstacle: str | None = None


def why_no_flashinfer(
    shape: AttentionShape, capability: tuple[int, int] | None, install: FlashInferInstall
) -> str | None:
    """The first reason, in words that follow "FlashInfer: "; None where it can serve.

    `capability` is the GPU's compute capability, None on a CPU.
    """
    if capability is None:
        return "this needs a CUDA device"
    if install.version is None:
        return "the package flashinfer-python is not installed"
    if capability < MIN_CAPABILITY:
        needed, found = (f"{major}.{minor}" for major, minor in (MIN_CAPABILITY, capability))
        return f"it needs compute capability {needed}, and this GPU has {found}"
    if shape.cache_dtype == torch.float8_e4m3fn:
        return "it knows no scales of blocks, which a cache_dtype of 8 bits has"
    if shape.dtype not in DTYPES or shape.cache_dtype != shape.dtype:
        names = f"{_name(shape.dtype)}, over a cache of {_name(shape.cache_dtype)}"
        return f"it computes in bfloat16 or float16, with a cache of the same, not in {names}"
    if shape.head_size not in HEAD_SIZES:
        tested = ", ".join(map(str, HEAD_SIZES))
        return f"heads of {shape.head_size} are none of those that are tested, {tested}"
    return install.obstacle


def why_not_by_itself(install: FlashInferInstall) -> str | None:
    """Why "auto" leaves FlashInfer out although it can serve: its interface changes often."""
    if install.version == TESTED_VERSION:
        return None
    return f"version {install.version} is not the tested one, {TESTED_VERSION}"


def find_flashinfer() -> FlashInferInstall:
    """Look at this installation, without importing FlashInfer, which takes seconds."""
    if find_spec("flashinfer") is None:
        return FlashInferInstall(None)
    version = metadata.version("flashinfer-python")
    compiled = find_spec("flashinfer_jit_cache") is not None
    return FlashInferInstall(version, None if compiled else _why_not_compiled())


def why_not_compiled(environment: Mapping[str, str], which: Which) -> str | None:
    """What its compilation misses; it looks for nvcc as FlashInfer itself does."""
    if not _has_nvcc(environment, which):
        return (
            "its kernels cannot be compiled without nvcc, which is not in $CUDA_HOME/bin, on the "
            "PATH or in /usr/local/cuda/bin; flashinfer-jit-cache brings compiled ones"
        )
    for program in (environment.get("CXX", "c++"), "ninja"):
        if which(program) is None:
            return f"its kernels cannot be compiled without {program} on the PATH"
    return None


def _has_nvcc(environment: Mapping[str, str], which: Which) -> bool:
    if named := environment.get("FLASHINFER_NVCC"):
        return which(named) is not None
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if home is None and which("nvcc") is not None:
        return True
    return which(str(Path(home or "/usr/local/cuda", "bin", "nvcc"))) is not None


def _why_not_compiled() -> str | None:
    path = search_path(os.environ)
    return why_not_compiled(os.environ, lambda program: shutil.which(program, path=path))


def search_path(environment: Mapping[str, str]) -> str:
    """The PATH, and behind it the folder of this Python, where pip puts ninja."""
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    scripts = str(Path(sys.executable).parent)
    return os.pathsep.join(folders if scripts in folders else [*folders, scripts])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
