"""The workflow and the hooks before a commit run what the Makefile has, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.quick

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))


def workflow() -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    return loaded


def recipe(target: str) -> list[str]:
    """The commands of a target, with its variables filled in."""
    (text,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in text.splitlines()]


def test_the_workflow_runs_targets_of_the_makefile_alone() -> None:
    steps = [step for job in workflow()["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == ["make lint", "make test", "make test-all"]
    assert {command.removeprefix("make ") for command in commands} <= TARGETS


def test_the_workflow_has_no_secrets_and_may_only_read() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "secrets." not in text
    assert workflow()["permissions"] == {"contents": "read"}


def test_the_workflow_uses_the_oldest_python_that_is_supported() -> None:
    (oldest,) = re.findall(
        r'^requires-python = ">=(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    steps = [step for job in workflow()["jobs"].values() for step in job["steps"]]
    setups = [step["with"] for step in steps if "setup-python" in step.get("uses", "")]
    assert {setup["python-version"] for setup in setups} == {oldest}
    assert {setup["cache"] for setup in setups} == {"pip"}


def test_hooks_before_a_commit_are_the_commands_of_make_lint() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == recipe("lint")


def test_contributors_are_told_of_targets_that_exist() -> None:
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    assert {"quick", "test", "test-all", "lint"} <= named <= TARGETS
