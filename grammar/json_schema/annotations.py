"""Keywords that demand nothing of a value."""

from __future__ import annotations

from typing import Any

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""Those that the compiler enforces. Others describe, as JSON Schema has it of all formats."""
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
    """True for annotations, and for what is the same as if it were not there."""
    if key == "format":
        return isinstance(value, str) and value not in FORMATS
    return key == "uniqueItems" and value is False
