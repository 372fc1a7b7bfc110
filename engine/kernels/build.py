"""The compiled kernels as files: shipped with the package, or compiled once into a cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.errors import KernelError
from engine.kernels.lock import only_one
from engine.kernels.targets import Target, targets_here

log = logging.getLogger(__name__)

PREBUILT = Path(__file__).with_name("prebuilt")
"""Libraries that a wheel or an image brings; `python -m engine.kernels` fills it."""

_FLAGS = ("-std=c++17", "-O3", "-fPIC")
_COMPILERS = ("g++", "clang++", "c++")
_LIMIT_S = 300


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


def choose_target() -> Target:
    """The fastest that this CPU runs, or what TANDEM_KERNELS names; KernelError for other names."""
    possible = targets_here()
    wanted = os.environ.get("TANDEM_KERNELS") or possible[0].name
    for target in possible:
        if target.name == wanted:
            return target
    names = ", ".join(target.name for target in possible)
    raise KernelError(f'TANDEM_KERNELS is "{wanted}": this CPU runs {names}')


def find_or_build(cache: Path, prebuilt: Path = PREBUILT) -> tuple[Path, str]:
    """The library for this CPU and its target's name; KernelError says why there is none."""
    target = choose_target()
    shipped = prebuilt / library_name(target)
    return (shipped if shipped.exists() else build(cache, target)), target.name


def build(cache: Path, target: Target, compiler: str | None = None) -> Path:
    """The library in `cache`, compiled now if it is not there; KernelError says why not.

    When several processes need it at once, one compiles and the others wait.
    """
    library = cache / library_name(target)
    try:
        if not library.exists():
            compiler = compiler or _find_compiler()
            cache.mkdir(parents=True, exist_ok=True)
            lock, others = library.with_suffix(".lock"), "a worker that compiles CPU kernels"
            with only_one(lock, _LIMIT_S, others):
                if not library.exists():
                    _compile_aloud(compiler, target, library)
    except OSError as error:
        raise KernelError(f"{cache} cannot hold the kernels: {error}") from error
    return library


def library_name(target: Target) -> str:
    """A file name with a hash of sources and flags, so that no outdated library is loaded."""
    digest = hashlib.blake2b(" ".join((*_FLAGS, *target.options)).encode(), digest_size=12)
    for source in _sources("*.h") + _sources("*.cpp"):
        digest.update(source.name.encode() + source.read_bytes())
    return f"kernels-{target.name}-{digest.hexdigest()}.so"


def _sources(pattern: str) -> list[Path]:
    return sorted(Path(__file__).parent.glob(pattern))


def _find_compiler() -> str:
    for name in _COMPILERS:
        if found := shutil.which(name):
            return found
    raise KernelError(f"none of {', '.join(_COMPILERS)} is installed")


def _compile_aloud(compiler: str, target: Target, library: Path) -> None:
    """Log that a first start takes longer because of the compilation."""
    log.info("compiling CPU kernels (%s) for this machine, once: %s", target.name, library)
    began = time.monotonic()
    _compile(compiler, target, library)
    log.info("compiled CPU kernels in %.1f s", time.monotonic() - began)


def _compile(compiler: str, target: Target, library: Path) -> None:
    """Compile in a temporary folder, then rename, so that no process loads an unfinished file."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, sources = Path(folder, library.name), _sources("*.cpp")
        objects = [Path(folder, source.stem).with_suffix(".o") for source in sources]
        commands = [
            [compiler, *_FLAGS, *target.options, "-c", str(source), "-o", str(made)]
            for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(len(commands), "compilers") as compilers:
            list(compilers.map(_run, commands))
        _run([compiler, "-shared", *map(str, objects), "-o", str(made)])
        made.replace(library)


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise KernelError(f"{command[0]} did not end within {_LIMIT_S} s") from None
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["nothing"]
        raise KernelError(f"{command[0]} failed: {said[0]}")
