"""The complement of a schema, in schemas that the compiler enforces.

A complement is a list of alternatives, empty when the schema allows everything. Where it cannot be
expressed exactly it may allow less (a number that is no integer), never more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from grammar.json_schema.annotations import ANNOTATIONS, only_describes
from grammar.json_schema.texts import other_texts

TYPES = ("object", "array", "string", "number", "boolean", "null")
MAX_ALTERNATIVES = 64

Alternatives = list[Any]


def try_complement(schema: Any) -> Alternatives | None:
    """The complement; None when it cannot be expressed."""
    if isinstance(schema, bool):
        return [] if schema else [True]
    found: Alternatives = []
    for key, value in schema.items():
        if key in ANNOTATIONS or only_describes(key, value):
            continue
        contrary = _CONTRARIES.get(key)
        others = None if contrary is None else contrary(value)
        if others is None:
            return None
        found += others
    return found if len(found) <= MAX_ALTERNATIVES else None


def _of_type(wanted: Any) -> Alternatives:
    named: set[str] = {wanted} if isinstance(wanted, str) else {*wanted}
    if "integer" in named:
        named.add("number")
    others = [each for each in TYPES if each not in named]
    return [{"type": others}] if others else []


def _of_values(values: Sequence[Any]) -> Alternatives | None:
    """Other values of the same types, and all others."""
    kinds = {_kind(value) for value in values}
    if kinds & {"object", "array"}:
        return None
    found: Alternatives = [{"type": [each for each in TYPES if each not in kinds]}]
    if "string" in kinds:
        texts = [value for value in values if isinstance(value, str)]
        found.append({"type": "string", "pattern": other_texts(texts)})
    if "boolean" in kinds:
        found += [{"const": each} for each in (True, False) if not _holds(values, each)]
    if "number" in kinds:
        found += _other_numbers(sorted({v for v in values if _kind(v) == "number"}))
    return found


def _other_numbers(numbers: Sequence[float]) -> Alternatives:
    found: Alternatives = [
        {"type": "number", "exclusiveMaximum": numbers[0]},
        {"type": "number", "exclusiveMinimum": numbers[-1]},
    ]
    found += [
        {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
        for low, high in itertools.pairwise(numbers)
        if high - low > 1 or not float(low).is_integer() or not float(high).is_integer()
    ]
    return found


def _of_required(names: Sequence[str]) -> Alternatives:
    return [{"type": "object", "properties": {name: False}} for name in names]


def _of_properties(properties: dict[str, Any]) -> Alternatives | None:
    """One is there, and is something else."""
    found: Alternatives = []
    for name, schema in properties.items():
        others = try_complement(schema)
        if others is None:
            return None
        found += [
            {"type": "object", "properties": {name: each}, "required": [name]} for each in others
        ]
    return found


def _of_all(schemas: Sequence[Any]) -> Alternatives | None:
    parts = [try_complement(each) for each in schemas]
    if any(part is None for part in parts):
        return None
    return [each for part in parts if part is not None for each in part]


def _of_any(schemas: Sequence[Any]) -> Alternatives | None:
    """Neither of them: one alternative of each complement, together."""
    parts = [try_complement(each) for each in schemas]
    if any(part is None for part in parts):
        return None
    found: Alternatives = []
    for chosen in itertools.product(*(part for part in parts if part is not None)):
        found.append({"allOf": [*chosen]})
        if len(found) > MAX_ALTERNATIVES:
            return None
    return found


def _limit(kind: str, contrary: str, shift: int = 0) -> Callable[[Any], Alternatives | None]:
    return lambda value: [{"type": kind, contrary: value + shift}]


def _least(kind: str, contrary: str) -> Callable[[Any], Alternatives | None]:
    return lambda value: [{"type": kind, contrary: value - 1}] if value > 0 else []


_CONTRARIES: dict[str, Callable[[Any], Alternatives | None]] = {
    "type": _of_type,
    "const": lambda value: _of_values([value]),
    "enum": _of_values,
    "required": _of_required,
    "properties": _of_properties,
    "allOf": _of_all,
    "anyOf": _of_any,
    "not": lambda schema: [schema],
    "minimum": _limit("number", "exclusiveMaximum"),
    "maximum": _limit("number", "exclusiveMinimum"),
    "exclusiveMinimum": _limit("number", "maximum"),
    "exclusiveMaximum": _limit("number", "minimum"),
    "maxLength": _limit("string", "minLength", 1),
    "minLength": _least("string", "maxLength"),
    "maxItems": _limit("array", "minItems", 1),
    "minItems": _least("array", "maxItems"),
}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _holds(values: Sequence[Any], wanted: bool) -> bool:
    return any(value is wanted for value in values)
