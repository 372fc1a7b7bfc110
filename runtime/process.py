"""How a process speaks to whoever started it: a line when it serves, a line when it cannot."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import msgspec

DRAIN_S = 30.0
"""How long requests may take to end after the first signal."""


def say_ready(facts: Any) -> None:
    """One line of JSON on standard output, which carries nothing else."""
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()


def leave(message: str) -> NoReturn:
    """The cause, for a person, and exit status 2."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)
