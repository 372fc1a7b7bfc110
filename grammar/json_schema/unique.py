"""`uniqueItems` over few values, as an enumeration of arrays."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from grammar.json_schema.annotations import ANNOTATIONS
from grammar.json_schema.references import resolved

MAX_ARRAYS = 1000
"""Most alternatives in a whole schema: an array of five values has 326."""
MAX_VALUES = 32
"""With more values, even pairs are too many."""
_OTHERS = [{"type": each} for each in ("string", "number", "boolean", "null", "object")]


class UniqueArrays:
    """Rewrites the arrays of one schema, within a common limit on alternatives."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self._num_left = MAX_ARRAYS

    def listed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with all possible arrays in place of `uniqueItems`, where they are few."""
        if schema.get("uniqueItems") is not True:
            return schema
        rest = {key: value for key, value in schema.items() if key != "uniqueItems"}
        if rest.get("maxItems") in (0, 1):
            return rest
        values = self._values(rest.get("items"))
        if values is None or len(values) > MAX_VALUES or {"prefixItems", "anyOf"} & rest.keys():
            return schema
        least = max(0, rest.pop("minItems", 0))
        most = min(rest.pop("maxItems", len(values)), len(values))
        num_arrays = sum(math.perm(len(values), size) for size in range(least, most + 1))
        if num_arrays > self._num_left:
            return schema
        self._num_left -= num_arrays
        del rest["items"]
        arrays = [
            _array(chosen)
            for size in range(least, most + 1)
            for chosen in itertools.permutations(values, size)
        ]
        others = [] if rest.get("type") == "array" else _OTHERS
        return {**rest, "anyOf": [*arrays, *others]}

    def _values(self, items: Any) -> list[Any] | None:
        """All values of an item; None where they are not enumerated."""
        items = resolved(items, self.root)
        if not isinstance(items, dict):
            return None
        if items.get("type") == "boolean" and "enum" not in items:
            return [True, False]
        values = [items["const"]] if "const" in items else items.get("enum")
        known = {*ANNOTATIONS, "type", "enum", "const"}
        if not isinstance(values, list) or items.keys() - known:
            return None
        return list({json.dumps(value): value for value in values}.values())


def _array(items: tuple[Any, ...]) -> dict[str, Any]:
    told = {"prefixItems": [{"const": item} for item in items]} if items else {}
    return {"type": "array", **told, "minItems": len(items), "maxItems": len(items)}
