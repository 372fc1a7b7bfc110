"""The errors of traces.

TraceError
├── BadTrace      a file of requests that cannot be read; names the file and the line
└── BadSpec       a description of requests with a mistake; shows where
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TraceError(ValueError):
    """Base of all errors in what the requests of a simulation are to be."""


class BadTrace(TraceError):
    """The file is missing, empty or broken, or of no known form."""


class BadSpec(TraceError):
    """The text is no SPEC. `at` is the mistake's position in it, from 0."""

    def __init__(self, text: str, at: int, message: str) -> None:
        super().__init__(f"{message}\n  {text}\n  {' ' * at}^")
        self.at = at


def did_you_mean(unknown: str, known: Iterable[str]) -> str:
    """A question after an unknown name, or nothing where none is similar."""
    close = difflib.get_close_matches(unknown, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
