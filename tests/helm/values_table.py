"""The chart's values as a table, from the comments in values.yaml.

`python -m tests.helm.values_table` writes it into helm/README.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tests.helm.engines import CHART

BEGIN, END = "<!-- values -->", "<!-- end of values -->"
MARK = "# -- "


class Row(NamedTuple):
    path: str
    default: Any
    text: str


def rows(text: str) -> Iterator[Row]:
    """One for each key with a comment before it. The pools themselves have none."""
    values = yaml.safe_load(text)
    parents: list[tuple[int, str]] = []
    comment = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(MARK):
            comment = stripped.removeprefix(MARK)
            continue
        found = re.match(r"( *)([\w-]+):", line)
        if found is None:
            continue
        indent, key = len(found[1]), found[2]
        parents = [it for it in parents if it[0] < indent]
        path = [*(it[1] for it in parents), key]
        parents.append((indent, key))
        if comment is not None:
            yield Row(".".join(path), _at(values, path), comment)
            comment = None


def leaves(tree: Any, path: str = "") -> Iterator[str]:
    """Every value that is no further mapping."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


def table(text: str) -> str:
    lines = ["| key | default | what it is |", "|---|---|---|"]
    for row in rows(text):
        shown = json.dumps(row.default, ensure_ascii=False)
        lines.append(f"| `{row.path}` | `{shown}` | {row.text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def with_table(readme: str, text: str) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(text)}\n{END}{after}"


def _at(tree: Any, path: list[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


if __name__ == "__main__":
    file = CHART / "README.md"
    file.write_text(with_table(file.read_text(), (CHART / "values.yaml").read_text()))
