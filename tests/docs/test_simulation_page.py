"""Commands of docs/simulation.md print what the page shows: its lines and words, and its goodput
within a fifth. Other digits change with every change of placement."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.simulate import HELP
from sim.traces import open_trace
from sim.traces.spec import KINDS
from tests.docs.simulation_page import PAGE, Step, run, shape, transcripts

GOODPUT = re.compile(r'"goodput":([\d.]+)|^goodput +([\d.]+)%', re.M)
SPEC = re.compile(r"`((?:poisson|even|gamma|burst|conversation|mix)\b[^`]*|2048/128)`")


@pytest.mark.parametrize("block", transcripts(), ids=lambda block: block[-1].command.split("\n")[0])
def test_commands_print_what_the_page_shows(block: list[Step], tmp_path: Path) -> None:
    for told, now in zip(block, run(block, tmp_path), strict=True):
        assert shape(now.output) == shape(told.output), now.output
        assert _goodput(now.output) == pytest.approx(_goodput(told.output), abs=0.2)


def _goodput(output: str) -> list[float]:
    return [
        float(share) if share else float(percent) / 100
        for share, percent in GOODPUT.findall(output)
    ]


@pytest.mark.quick
def test_every_spec_on_the_page_can_be_drawn() -> None:
    specs = set(SPEC.findall(PAGE.read_text()))
    assert {spec.split(":")[0] for spec in specs} >= set(KINDS)
    for spec in specs:
        assert open_trace(spec, 5.0, count=10).arrivals


@pytest.mark.quick
def test_page_and_help_name_every_option_of_a_spec() -> None:
    page = PAGE.read_text()
    for options in KINDS.values():
        for name in options:
            assert re.search(rf"\b{name}\b", page), name
            assert re.search(rf"\b{name}\b", HELP), name
