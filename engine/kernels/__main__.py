"""Compiles kernels ahead of time, for wheels and images: `python -m engine.kernels --into DIR`.

Without `--target`, those of all instructions that this kind of machine may have.
"""

from __future__ import annotations

import argparse
import logging
import platform
from pathlib import Path

from engine.errors import KernelError
from engine.kernels.build import PREBUILT, build
from engine.kernels.targets import TARGETS


def main() -> None:
    logging.basicConfig(level="INFO", format="%(message)s")
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="python -m engine.kernels", description=__doc__)
    parser.add_argument("--into", type=Path, default=PREBUILT, help=f"default: {PREBUILT}")
    parser.add_argument("--target", action="append", choices=names, help="may be repeated")
    parser.add_argument("--compiler", help="default: g++, clang++ or c++")
    given = parser.parse_args()
    machine = platform.machine()
    for target in TARGETS:
        own = target.machines and machine in target.machines
        if target.name in given.target if given.target else own:
            try:
                build(given.into, target, given.compiler)
            except KernelError as error:
                raise SystemExit(f"{target.name}: {error}") from error
    for lock in given.into.glob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main()
