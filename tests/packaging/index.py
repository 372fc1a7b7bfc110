"""What a package index has, asked by pip; nothing is installed.

Where an index serves metadata by itself, as PyPI does, no large wheel is fetched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 240


def resolved(requirement: str, *options: str) -> list[dict[str, Any]]:
    """The metadata of each package that pip would install. Skips the test without an index."""
    command = ["install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-"]
    report = json.loads(_pip([*command, *options, requirement]))
    return [it["metadata"] for it in report["install"]]


def libraries_in(requirement: str, folder: Path) -> set[str]:
    """Names of the shared libraries in a wheel, which is fetched."""
    _pip(["download", "--quiet", "--no-deps", "--dest", str(folder), requirement])
    (wheel,) = folder.glob("*.whl")
    names = [Path(name).name for name in zipfile.ZipFile(wheel).namelist()]
    return {name for name in names if ".so" in name}


def _pip(arguments: Sequence[str]) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--retries", "1", "--timeout", "20"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if ended.returncode:
        errors = [line for line in ended.stderr.splitlines() if "ERROR" in line]
        pytest.skip(f"no package index has it: {errors[:1] or ended.stderr[-200:]}")
    return ended.stdout
