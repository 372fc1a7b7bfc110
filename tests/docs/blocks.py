"""Fenced blocks of Markdown pages, and what the comment before each says of who runs it.

`<!-- run -->`                 run as it stands, by tests/docs/test_commands.py
`<!-- run by PATH -->`         run by that test, which reads the page
`<!-- not run: WHY -->`        needs what tests have not
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SHELL = "sh"
TRANSCRIPT = "console"
"""Commands behind `$ `, with what they print."""
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_COMMAND = re.compile(r"^\$ (.*(?:(?<=\\)\n.*)*)", re.M)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    mark: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of a transcript; each may have several lines."""
        return _COMMAND.findall(self.text)


def pages() -> list[Path]:
    """All that a user would follow."""
    others = [ROOT / name / "README.md" for name in ("examples", "helm")]
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *others,
    ]


def blocks(page: Path) -> list[Block]:
    text, name = page.read_text(), str(page.relative_to(ROOT))
    return [
        Block(
            name,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["mark"],
            found["text"],
        )
        for found in _FENCE.finditer(text)
    ]
