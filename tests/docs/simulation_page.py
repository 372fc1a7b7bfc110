"""Commands of docs/simulation.md with what they print.

`python -m tests.docs.simulation_page` runs them and refreshes the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.docs.blocks import ROOT, TRANSCRIPT, blocks
from tests.system.shells import BIN

PAGE = ROOT / "docs" / "simulation.md"
PROMPT, HERE, END = "$ ", "<<'END'", "END"
_NUMBER = re.compile(r"(?<![\w.])[\d,]*\.?\d+(?:e-?\d+)?(?![\w/])")


class Step(NamedTuple):
    """A command as it stands on the page, and the output below it."""

    command: str
    output: str


def transcripts() -> list[list[Step]]:
    """The steps of each block."""
    return [steps(block.text) for block in blocks(PAGE) if block.language == TRANSCRIPT]


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command = _command(part)
        found.append(Step(command, part[len(command) :]))
    return found


def run(block: list[Step], folder: Path) -> list[Step]:
    """The steps with what they print now, on both outputs."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }
    return [Step(step.command, _said(step.command, folder, environment)) for step in block]


def shape(output: str) -> str:
    """An output without its numbers and their units, and without how wide columns are."""
    return re.sub(r" +", " ", re.sub(r"N m?s\b", "N s", _NUMBER.sub("N", output)))


def _command(part: str) -> str:
    """All lines of the command with which a part begins."""
    lines = part.splitlines(keepends=True)
    length = 1
    while lines[length - 1].endswith("\\\n"):
        length += 1
    if HERE in lines[0]:
        length = lines.index(END + "\n") + 1
    return "".join(lines[:length])


def _said(command: str, folder: Path, environment: dict[str, str]) -> str:
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
        check=False,
    )
    return ended.stdout


def refresh() -> None:
    text = PAGE.read_text()
    for block in (block for block in blocks(PAGE) if block.language == TRANSCRIPT):
        with tempfile.TemporaryDirectory() as folder:
            now = run(steps(block.text), Path(folder))
        text = text.replace(block.text, "".join(PROMPT + it.command + it.output for it in now))
    PAGE.write_text(text)


if __name__ == "__main__":
    refresh()
