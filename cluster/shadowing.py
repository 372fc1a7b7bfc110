"""Detects packages that shadow ours on Python's path; see docs/decisions/0020."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    "checkpoint",
    "decode_worker",
    "engine",
    "grammar",
    "kv_transfer",
    "prefill_worker",
    "router",
    "runtime",
    "sim",
    "wire",
    "worker",
)
"""All packages but `cluster`, which is imported already."""
ROOT = Path(__file__).resolve().parent.parent


def find_shadowed(root: Path = ROOT) -> str | None:
    """An error message for the user; None if every package is the one in this directory."""
    for name in PACKAGES:
        spec = find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if found != root / name / "__init__.py":
            where = "nothing" if found is None else str(found)
            return (
                f"Python finds {where} for Tandem's package {name!r}: run `tandem` from another "
                "directory, take that out of PYTHONPATH, or install Tandem into an environment of "
                "its own (python -m venv)"
            )
    return None
