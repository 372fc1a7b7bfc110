"""Rewrites `oneOf` as `anyOf`, with options that exclude each other."""

from __future__ import annotations

import itertools
import json
from typing import Any

from grammar.json_schema.complement import try_complement
from grammar.json_schema.references import resolved

Schema = dict[str, Any]
_TYPES: dict[type, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
MAX_OPTIONS = 8
"""Most options that are made exclusive: each takes the complements of all others."""


def with_any_of(schema: Schema, root: Schema) -> Schema:
    """The schema with `anyOf` in place of `oneOf`, or unchanged where that is impossible."""
    options = schema.get("oneOf")
    if not isinstance(options, list) or "anyOf" in schema:
        return schema
    known = [resolved(option, root) for option in options]
    told = _told_apart(options, schema)
    if told is None and all(_disjoint(*pair, root) for pair in itertools.combinations(known, 2)):
        told = options
    told = told or _alone(options, known)
    if told is None:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("oneOf", "discriminator")}
    return {**rest, "anyOf": told} if told else {"not": {}}


def _told_apart(options: list[Any], schema: Schema) -> list[Any] | None:
    """Options told apart by a discriminator, whose property is required."""
    discriminator = schema.get("discriminator")
    name = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    if not isinstance(name, str):
        return None
    return [{"allOf": [option, {"required": [name]}]} for option in options]


def _disjoint(first: Any, second: Any, root: Schema) -> bool:
    """True when certainly no value matches both."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return first is False or second is False
    if _types(first) & _types(second) == set():
        return True
    values = _values(first), _values(second)
    if values[0] is not None and values[1] is not None:
        return not values[0] & values[1]
    if _types(first) != {"object"} or _types(second) != {"object"}:
        return False
    return _objects_disjoint(first, second, root)


def _objects_disjoint(first: Schema, second: Schema, root: Schema) -> bool:
    """True by a property that differs in both, or that one requires and the other excludes."""
    required = {*first.get("required", ())}, {*second.get("required", ())}
    parts = first.get("properties", {}), second.get("properties", {})
    for name in required[0] & required[1]:
        mine, others = (resolved(part.get(name, True), root) for part in parts)
        if _disjoint(mine, others, root):
            return True
    return _closed_to(second, required[0]) or _closed_to(first, required[1])


def _closed_to(schema: Schema, names: set[str]) -> bool:
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return closed and bool(names - schema.get("properties", {}).keys())


def _alone(options: list[Any], known: list[Any]) -> list[Any] | None:
    """Each option combined with the complements of the others."""
    others = [try_complement(each) for each in known]
    if len(options) > MAX_OPTIONS or any(each is None for each in others):
        return None
    return [
        {"allOf": [option, *({"anyOf": each} for each in others[:index] + others[index + 1 :])]}
        for index, option in enumerate(options)
        if all(others[:index] + others[index + 1 :])
    ]


def _types(schema: Schema) -> set[str]:
    values = _values(schema)
    named = schema.get("type")
    if isinstance(named, str):
        found = {named}
    elif isinstance(named, list):
        found = {*named}
    elif values is not None:
        found = {_TYPES[type(json.loads(each))] for each in values}
    else:
        found = {*_TYPES.values()}
    return found | {"number"} if "integer" in found else found


def _values(schema: Schema) -> set[str] | None:
    """Enumerated values as JSON; None where all values of its types are allowed."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return {json.dumps(each, sort_keys=True) for each in values} if values else None
