"""What a schema refers to within its own document."""

from __future__ import annotations

from typing import Any


def resolved(schema: Any, root: dict[str, Any]) -> Any:
    """What a schema that is a reference refers to; itself where that is nothing here."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    found: Any = root
    for key in reference[2:].split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return schema if found is None else found
