"""The faults of `python -m tests.faults`, a few of them every day, all in the long tier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(660)
@pytest.mark.parametrize(
    ("fabric", "moments", "flips"),
    [
        pytest.param([], 2, 25, id="default"),
        pytest.param([], 60, 1000, id="default, all", marks=pytest.mark.long),
        pytest.param(["--tcp"], 60, 1000, id="tcp, all", marks=pytest.mark.long),
    ],
)
def test_a_worker_survives_what_befalls_its_peer_in_the_middle_of_a_transfer(
    fabric: list[str], moments: int, flips: int
) -> None:
    found = faults(*fabric, "--moments", str(moments), "--flips", str(flips))
    assert f"{flips} of {flips} caught" in found


@pytest.mark.long
@pytest.mark.timeout(660)
def test_a_worker_survives_what_befalls_one_rank_of_its_peer() -> None:
    found = faults("--ranks", "2:2", "--moments", "4", "--flips", "0")
    for role in ("prefill", "decode"):
        assert f"SIGKILL of rank 1 of the {role} worker: 1" in found
        assert f"SIGSTOP of rank 1 of the {role} worker: 1" in found


def faults(*options: str) -> str:
    """What was found, all of it well, with either worker as the victim."""
    command = [sys.executable, "-m", "tests.faults", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("0 problems") == 2
    return run.stdout
