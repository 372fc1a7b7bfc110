"""Events: one name for each kind, and which of them need not happen."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """`subject` numbers an attempt or a link, or a place among letters, flights or destinations.

    `place` says which destination an event of an attempt is of.
    """

    act: str
    subject: int = 0
    place: int = 0


FAULTS = frozenset(
    {
        "lose",
        "repeat",
        "refuse",
        "corrupt",
        "cancel at source",
        "cancel at destination",
        "crash source",
        "crash destination",
        "break for source",
        "break for destination",
        "fail",
        "unreachable",
        "move",
    }
)
