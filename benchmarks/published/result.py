"""A published number, ours beside it, and the tables of them."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One number of one published setting."""

    setting: str
    quantity: str
    published: float
    ours: float
    bar: float | None = None
    """Largest error that is wanted; None: it is only reported."""
    differs: bool = False
    """Whether the error is the difference, as of shares, instead of the relative one."""
    at_most: bool = False
    """Whether less than published is as good."""

    @property
    def error(self) -> float:
        if self.differs:
            return self.ours - self.published
        return self.ours / self.published - 1

    @property
    def within(self) -> bool:
        error = self.error if self.at_most else abs(self.error)
        return self.bar is None or error <= self.bar


class DataMissing(Exception):
    """Published data are not there; says what to fetch."""


def table(results: list[Result]) -> str:
    """A Markdown table, a row for each result."""
    lines = [
        "| setting | quantity | published | ours | error | within |",
        "|---|---|---|---|---|---|",
    ]
    for each in results:
        bar = "–" if each.bar is None else f"{'yes' if each.within else 'NO'} ({each.bar:.0%})"
        numbers = f"{each.published:.4g} | {each.ours:.4g} | {each.error:+.1%}"
        lines.append(f"| {each.setting} | {each.quantity} | {numbers} | {bar} |")
    return "\n".join(lines)


def needed(path: Path, source: str) -> Path:
    """The path, if it is there. Raises DataMissing."""
    if not path.exists():
        raise DataMissing(f"{path} is not there: fetch {source}")
    return path
