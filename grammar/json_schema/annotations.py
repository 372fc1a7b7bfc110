"""Schema keywords that are annotations: they restrict no value."""

from __future__ import annotations

from typing import Any

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""Formats that the compiler enforces. Others are annotations, as in JSON Schema all formats are."""
ANNOTATIONS = frozenset(
    (
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    )
)


def only_describes(key: str, value: Any) -> bool:
    """True for annotations, and for values that make a keyword have no effect."""
    if key == "format":
        return isinstance(value, str) and value not in FORMATS
    return key == "uniqueItems" and value is False
