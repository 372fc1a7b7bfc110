"""Packages of the same names as ours, and what the wheel holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from cluster.shadowing import PACKAGES, ROOT, find_shadowed

ROOMS = {"cluster", *PACKAGES}


def test_every_package_that_is_installed_is_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in found} == ROOMS
    assert find_shadowed() is None


@pytest.mark.parametrize("name", ["engine.py", "worker/__init__.py"])
def test_another_package_of_the_same_name_is_said_instead_of_an_import_error(
    tmp_path: Path, name: str
) -> None:
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("")
    ended = subprocess.run(
        [sys.executable, "-m", "cluster", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **{"capture_output": True, "text": True, "timeout": 60},
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: Python finds {other} for Tandem's package")


def test_the_wheel_holds_the_packages_and_the_bundled_model_and_nothing_else(
    tmp_path: Path,
) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"  # in place it would find what was built before
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=200)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {it for it in tops if not it.endswith(".dist-info")} == ROOMS
    assert "cluster/tiny-python/model.safetensors" in names
    assert any(name.startswith("engine/kernels/") and name.endswith(".cpp") for name in names)
