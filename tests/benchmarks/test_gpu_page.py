"""docs/gpu.md tells of every part, and of every kind of line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.gpu.finding import Kind
from benchmarks.gpu.part import PARTS

pytestmark = pytest.mark.quick

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gpu.md").read_text()


def told(head: str) -> set[str]:
    """What is named in the first column of the table with this head."""
    table = PAGE.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    return {
        name
        for row in table.splitlines()[2:]
        for name in re.findall("`([^`]+)`", row.split("|")[1])
    }


def test_every_part_is_told() -> None:
    assert told("Part") == {part.name for part in PARTS}


def test_every_kind_of_line_is_told() -> None:
    assert told("A line") == {kind.value for kind in Kind} - {"note"}
