"""Somebody who has README.md and a checkpoint serves it on Ray, in fewer than ten commands."""

from __future__ import annotations

import json

import pytest

from tests.docs.blocks import ROOT, SHELL, blocks
from tests.docs.walk import INSTALLS, awaited, commands, walking
from tests.system.shells import children_of, command_of, wait_until_ended

README = ROOT / "README.md"
MOST_COMMANDS = 9


def _squeezed(text: str) -> str:
    return " ".join(text.replace("\\\n", " ").split())


def test_the_walk_is_short_and_all_of_it_is_in_the_readme() -> None:
    given = commands()
    assert len(given) <= MOST_COMMANDS
    said = _squeezed("\n".join(it.text for it in blocks(README) if it.language == SHELL))
    assert [command for command in given if _squeezed(command) not in said] == []


def test_no_command_works_only_once() -> None:
    """Ray never takes an id again that a job had."""
    (submits,) = [it for it in commands() if "ray job submit" in it]
    assert "--submission-id $JOB " in submits
    assert any(it.startswith("export ") and "JOB=main-$(date " in it for it in commands())


def test_the_page_and_the_readme_have_the_same_file() -> None:
    (page,) = [it.text for it in blocks(ROOT / "docs" / "walkthrough.md") if it.language == "yaml"]
    assert page in [it.text for it in blocks(README) if it.language == "yaml"]


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_walk_leads_from_a_checkpoint_to_metrics() -> None:
    told: dict[str, str] = {}
    with walking() as walk:
        for command in (it for it in commands() if INSTALLS not in it):
            told[command] = walk.run(command, awaited(command))
        for name in (b"ray::RouterActor", b"ray::WorkerActor"):
            wait_until_ended(it for it in children_of(walk.head) if command_of(it).startswith(name))
    answer = json.loads(_the(told, "/v1/completions"))
    assert answer["usage"]["completion_tokens"] == 8
    metrics = _the(told, "/metrics")
    assert 'tandem_requests_total{door="http",' in metrics
    assert "tandem_generated_tokens_total" in metrics
    assert "tandem_transfer_bytes_total" in metrics
    assert "prefill-0   ready" in _the(told, "ray job logs")
    assert "stopped" in _the(told, "ray job stop").lower()


def _the(told: dict[str, str], part: str) -> str:
    (found,) = [said for command, said in told.items() if part in command]
    return found
