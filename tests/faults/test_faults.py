"""A few of the faults of `python -m tests.faults`, in a process of their own for each fabric."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(660)
@pytest.mark.parametrize("fabric", [[], ["--tcp"]], ids=["default", "tcp"])
def test_a_worker_survives_what_befalls_its_peer_in_the_middle_of_a_transfer(
    fabric: list[str],
) -> None:
    command = [sys.executable, "-m", "tests.faults", *fabric, "--moments", "8", "--flips", "25"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("0 problems") == 2
    assert "25 of 25 caught" in run.stdout
