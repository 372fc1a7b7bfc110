"""What a part of the script has found: one line of its output."""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.Enum):
    """The sort of a line; the value is what is printed before it."""

    NOTE = "note"
    FIGURE = "figure"
    GREEN = "green"
    RED = "RED"
    MET = "met"
    MISSED = "MISSED"
    SKIPPED = "skipped"
    FAILED = "FAILED"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line; `figures` are the numbers in it, by name and unit, for programs."""

    kind: Kind
    name: str
    text: str = ""
    figures: dict[str, float] = {}

    def __str__(self) -> str:
        return f"  {self.kind.value:8} {self.name:34} {self.text}".rstrip()


def note(name: str, text: object, **figures: float) -> Finding:
    return Finding(Kind.NOTE, name, str(text), figures)


def figure(name: str, text: str, **figures: float) -> Finding:
    return Finding(Kind.FIGURE, name, text, figures)


def skipped(name: str, reason: str) -> Finding:
    return Finding(Kind.SKIPPED, name, reason)


def failed(name: str, reason: str) -> Finding:
    return Finding(Kind.FAILED, name, reason)


def check(name: str, right: bool, text: str = "", **figures: float) -> Finding:
    """A condition of correctness, which decides about the script's exit status."""
    return Finding(Kind.GREEN if right else Kind.RED, name, text, figures)


def bar(name: str, found: float, least: float) -> Finding:
    """A speed that is wanted; to miss it is no failure."""
    text = f"{found:.2f}, wanted {least:.2f} or more"
    return Finding(Kind.MET if found >= least else Kind.MISSED, name, text, {"found": found})


def bar_at_most(name: str, found: float, most: float) -> Finding:
    """Like `bar`, of something that should be small."""
    text = f"{found:.0f}, wanted {most:.0f} or less"
    return Finding(Kind.MET if found <= most else Kind.MISSED, name, text, {"found": found})
