"""Checks the structure of the product: `python -m tools.structure`, part of `make lint`.

No class name stands for two things, no module name is used twice within a room, and no file is
longer than MOST_LINES. Prints the medians of files and functions.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    *("cluster", "router", "prefill_worker", "decode_worker", "worker", "runtime"),
    *("engine", "kv_transfer", "grammar", "checkpoint", "wire", "sim"),
)
MOST_LINES = 350
EVERYWHERE = {"__init__", "__main__"}
Functions = (ast.FunctionDef, ast.AsyncFunctionDef)


def files() -> dict[Path, ast.Module]:
    """Every file of the product with its syntax tree; generated files are left out."""
    found = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return {path: ast.parse(path.read_text()) for path in found if "_pb2" not in path.name}


def complaints(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """One line for each rule that is broken, with the places that break it."""
    classes, modules = defaultdict(list), defaultdict(list)
    for path, tree in trees.items():
        name = path.relative_to(ROOT)
        if path.stem not in EVERYWHERE:
            modules[name.parts[0], path.stem].append(str(name))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name.lstrip("_")].append(f"{name}:{node.lineno}")
        if (length := num_lines(path)) > MOST_LINES:
            yield f"{name} has {length} lines, more than {MOST_LINES}"
    for title, places in classes.items():
        if len(places) > 1:
            yield f"class {title} is defined {len(places)} times: {', '.join(places)}"
    for (room, stem), places in modules.items():
        if len(places) > 1:
            yield f"{room} has {len(places)} modules called {stem}: {', '.join(places)}"


def num_lines(path: Path) -> int:
    """Lines of the file, empty ones included."""
    return len(path.read_text().splitlines())


def summary(trees: dict[Path, ast.Module]) -> str:
    """Medians, in lines; a function's lines are those of its body without the docstring."""
    lengths = [
        node.end_lineno - node.body[ast.get_docstring(node) is not None :][0].lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, Functions)
        and node.body[ast.get_docstring(node) is not None :]
        and node.end_lineno is not None
    ]
    whole = [num_lines(path) for path in trees if path.stem not in EVERYWHERE]
    return (
        f"{len(whole)} files, median {median(whole):.0f} lines, longest {max(whole)}; "
        f"{len(lengths)} functions, median {median(lengths):.0f} lines"
    )


def main() -> int:
    trees = files()
    found = list(complaints(trees))
    print("\n".join([*found, summary(trees)]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
