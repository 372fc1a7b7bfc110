"""Seconds as users write them in an option."""

from __future__ import annotations

import re

from cluster.errors import CannotSimulate

_SECONDS = re.compile(r"(\d+\.?\d*|\.\d+)(ms|s)?")


def seconds(option: str, text: str) -> float:
    """The seconds in a text such as 0.5, 2s or 500ms. Raises CannotSimulate, which names the
    option."""
    found = _SECONDS.fullmatch(text)
    value = 0.0 if found is None else float(found[1]) * (1e-3 if found[2] == "ms" else 1.0)
    if value <= 0:
        raise CannotSimulate(f"{option}: wanted seconds above 0, such as 0.5 or 500ms, not {text}")
    return value
