"""Compiles the kernels for this machine's CPU, once: the result is kept in a cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine.errors import KernelError

log = logging.getLogger(__name__)

_SOURCES = ("layer.cpp", "attention.h", "linear.h", "vectors.h")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp")
_COMPILERS = ("g++", "clang++", "c++")
_LIMIT_S = 120


def default_cache() -> Path:
    """TANDEM_CACHE_DIR, or else tandem/ in the user's cache folder; KernelError without a home."""
    if chosen := os.environ.get("TANDEM_CACHE_DIR"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base, "tandem")
    try:
        return Path.home() / ".cache" / "tandem"
    except RuntimeError as error:
        raise KernelError(f"{error} TANDEM_CACHE_DIR may name a folder for them") from error


def build(cache: Path) -> Path:
    """The compiled library in `cache`, made now if it is not there; KernelError says why not."""
    try:
        library = cache / f"kernels-{_fingerprint()}.so"
        if not library.exists():
            compiler = _find_compiler()
            log.info("compiling kernels for this CPU with %s, once: %s", compiler, library)
            cache.mkdir(parents=True, exist_ok=True)
            _compile(compiler, library)
    except OSError as error:
        raise KernelError(f"{cache} cannot hold the kernels: {error}") from error
    return library


def _fingerprint() -> str:
    """Changes with the sources, the flags and the CPU: a cache folder may serve many machines."""
    digest = hashlib.blake2b(" ".join(_FLAGS).encode(), digest_size=12)
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    digest.update(_cpu())
    return digest.hexdigest()


def _cpu() -> bytes:
    """The CPU's name and the instructions that it has."""
    lines = Path("/proc/cpuinfo").read_bytes().split(b"\n\n")[0].splitlines()
    telling = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(line for line in lines if line.startswith(telling))


def _find_compiler() -> str:
    for name in _COMPILERS:
        if found := shutil.which(name):
            return found
    raise KernelError(f"none of {', '.join(_COMPILERS)} is installed")


def _compile(compiler: str, library: Path) -> None:
    """Into a folder of its own, then renamed: workers that start together do not meet."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, source = Path(folder, library.name), Path(__file__).with_name(_SOURCES[0])
        objects = made.with_suffix(".o")
        _run([compiler, *_FLAGS, *_widest(), "-c", str(source), "-o", str(objects)])
        # Linked without -fopenmp: the process has PyTorch's OpenMP, and must not get a second one.
        _run([compiler, "-shared", str(objects), "-o", str(made)])
        made.replace(library)


def _widest() -> list[str]:
    """Compilers prefer half of AVX-512's width unless told otherwise."""
    return ["-mprefer-vector-width=512"] if b" avx512f " in _cpu() + b" " else []


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise KernelError(f"{command[0]} did not end within {_LIMIT_S} s") from None
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["nothing"]
        raise KernelError(f"{command[0]} failed: {said[0]}")
