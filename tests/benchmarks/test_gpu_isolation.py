"""Parts of benchmarks.gpu end without the script: by errors, signals, limits, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from benchmarks.gpu.__main__ import Report
from benchmarks.gpu.finding import Finding, Kind
from benchmarks.gpu.isolated import run_isolated
from benchmarks.gpu.part import Outcome, Part, find_parts
from benchmarks.gpu.summary import exit_status, table

LIMIT_S = 120


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.isolated.GRACE_S", 0.5)


def a_part(name: str, *, checks: bool = True) -> Part:
    return Part(name, name, "tests.benchmarks.troubled", LIMIT_S, checks)


def run(name: str) -> tuple[Outcome, list[Finding]]:
    shown: list[Finding] = []
    return run_isolated(a_part(name), "cpu", "auto", LIMIT_S, shown.append), shown


def is_alive(pid: float) -> bool:
    """Whether the process runs; one that has ended may wait for somebody to ask how."""
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def blocks_sigterm(pid: float) -> bool:
    try:
        status = Path(f"/proc/{int(pid)}/status").read_text()
    except FileNotFoundError:  # it has been killed by now
        return True
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(blocked.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def reason(outcome: Outcome) -> str:
    assert outcome.findings[-1].kind is Kind.FAILED
    return outcome.findings[-1].text


def test_a_part_that_ends_well_is_green() -> None:
    outcome, shown = run("fine")
    assert [finding.name for finding in shown] == ["begins", "device", "goes on"]
    assert outcome.findings == tuple(shown)
    assert (outcome.right, outcome.verdict, outcome.log) == (True, "green", ())


def test_an_error_ends_a_part_which_keeps_what_it_found_and_a_log() -> None:
    outcome, _ = run("raises")
    assert outcome.findings[0].kind is Kind.GREEN
    assert reason(outcome) == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert "Traceback" in "\n".join(outcome.log)
    assert not outcome.right


def test_memory_that_is_not_there_is_told_and_the_part_goes_on_until_the_device_fails() -> None:
    outcome, _ = run("guards")
    assert [(it.name, it.text.partition(":")[0]) for it in outcome.findings[1:]] == [
        ("large", "OutOfMemoryError"),
        ("odd", "ValueError"),
        ("the part ended", "RuntimeError"),
    ]


def test_a_part_that_crashes_is_told_by_its_signal() -> None:
    outcome, _ = run("dies")
    assert reason(outcome) == "killed by SIGSEGV"
    assert "the last words" in outcome.log


def test_a_part_that_hangs_is_killed_with_all_that_it_started_and_says_where() -> None:
    shown: list[Finding] = []

    def clock() -> float:
        """The limit is over as soon as the part hangs, which is after it has reported."""
        started = [it.figures["part"] for it in shown if it.name == "started"]
        return LIMIT_S if started and blocks_sigterm(started[0]) else 0.0

    outcome = run_isolated(a_part("hangs"), "cpu", "auto", LIMIT_S, shown.append, clock)
    assert reason(outcome) == f"killed: not over after {LIMIT_S} s"
    assert any("in hangs" in line for line in outcome.log)
    assert not is_alive(outcome.findings[1].figures["pid"])


def test_ctrl_c_ends_the_part_that_runs_and_keeps_what_it_found() -> None:
    def interrupt(finding: Finding) -> None:
        if finding.name == "started":
            raise KeyboardInterrupt

    outcome = run_isolated(a_part("hangs"), "cpu", "auto", LIMIT_S, interrupt)
    assert outcome.interrupted
    assert reason(outcome) == "interrupted"
    assert not is_alive(outcome.findings[1].figures["pid"])


def test_the_script_answers_ctrl_c_with_its_summary() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "versions", "kernels"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        for line in script.stdout:
            if "torch" in line:
                script.send_signal(signal.SIGINT)
                break
        rest = script.stdout.read()
        assert script.wait(LIMIT_S) == 130
    assert "kernels      not run" in rest or "interrupted" in rest


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_why_and_tells_the_versions(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--json", str(report), "kernels"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 1
    assert ended.stdout.startswith("no GPU here that PyTorch can use: ")
    assert f"send the maintainers {report}" in ended.stdout
    found = msgspec.json.decode(report.read_bytes(), type=Report)
    assert [(part.name, part.verdict) for part in found.parts] == [("versions", "measured")]
    assert found.exit_status == 1


def an_outcome(*kinds: Kind, checks: bool) -> Outcome:
    return Outcome("x", 1.0, tuple(Finding(kind, "a") for kind in kinds), checks)


@pytest.mark.parametrize(
    ("kinds", "checks", "status"),
    [
        ((Kind.GREEN, Kind.MISSED, Kind.SKIPPED), True, 0),
        ((Kind.GREEN, Kind.RED), True, 1),
        ((Kind.GREEN, Kind.FAILED), True, 1),
        ((Kind.SKIPPED, Kind.NOTE), True, 1),
        ((Kind.FIGURE, Kind.MISSED), False, 0),
        ((Kind.FAILED,), False, 1),
    ],
)
def test_the_exit_status_is_0_only_if_everything_was_proven(
    kinds: tuple[Kind, ...], checks: bool, status: int
) -> None:
    part = a_part("x", checks=checks)
    assert exit_status([part], [an_outcome(*kinds, checks=checks)]) == status


def test_a_part_that_was_not_run_is_not_right_and_is_in_the_table() -> None:
    parts = [a_part("x"), a_part("y")]
    outcomes = [an_outcome(Kind.GREEN, checks=True)]
    assert exit_status(parts, outcomes) == 1
    assert [line.split()[:2] for line in table(parts, outcomes)][1:] == [
        ["x", "green"],
        ["y", "not"],
    ]


def test_parts_are_found_by_name_in_their_own_order() -> None:
    assert [part.name for part in find_parts(["kernels", "versions"])] == ["versions", "kernels"]
    with pytest.raises(KeyError, match="nothing: none of versions, kernels, "):
        find_parts(["nothing"])
