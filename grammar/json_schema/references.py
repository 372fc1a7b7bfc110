"""Resolves references within a schema's document."""

from __future__ import annotations

from typing import Any


def resolved(schema: Any, root: dict[str, Any]) -> Any:
    """The schema that a local `$ref` refers to; the schema itself when there is none."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    found: Any = root
    for key in reference[2:].split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return schema if found is None else found
