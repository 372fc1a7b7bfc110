"""Rewrites a schema in keywords that the compiler enforces, wherever that is possible.

Formats that are not enforced are annotations, as in JSON Schema. `not`, `if`, `uniqueItems` over
few values and unions with a discriminator are expressed by other keywords. Keywords that cannot be
expressed stay, and the compiler refuses them by name.
"""

from __future__ import annotations

import json
from typing import Any

from grammar.errors import GrammarInvalid
from grammar.json_schema.annotations import only_describes
from grammar.json_schema.complement import try_complement
from grammar.json_schema.one_of import with_any_of
from grammar.json_schema.unique import UniqueArrays

Schema = dict[str, Any]

_OF_ONE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_OF_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_DEPENDENT = ("dependentRequired", "dependentSchemas", "dependencies")


def prepared_text(text: str, *, lenient: bool = False) -> str:
    """`prepared` for a schema's JSON; malformed text is left to the compiler. With `lenient`,
    keywords that cannot be enforced are no errors.

    Raises GrammarInvalid when it allows nothing or is nested too deeply.
    """
    try:
        schema = json.loads(text)
    except ValueError:
        return text
    except RecursionError as error:
        raise GrammarInvalid("the JSON schema is nested too deeply") from error
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        return text
    return json.dumps(prepared(schema, lenient=lenient), ensure_ascii=False)


def prepared(schema: Schema, *, lenient: bool = False) -> Schema:
    """Rewrite a schema. Raises GrammarInvalid when it allows nothing or is nested too deeply."""
    try:
        found = _prepared(schema, UniqueArrays(schema))
    except RecursionError as error:
        raise GrammarInvalid("the JSON schema is nested too deeply") from error
    except (TypeError, AttributeError):
        found = schema  # a keyword has a value of a wrong type, which the compiler names
    if not isinstance(found, dict):
        raise GrammarInvalid("the JSON schema cannot be enforced: no value can follow it")
    if not lenient:
        return found
    options = {**found.get("x-guidance", {}), "lenient": True, "coerce_one_of": True}
    return {**found, "x-guidance": options}


def _prepared(schema: Any, arrays: UniqueArrays) -> Any:
    """A rewritten subschema; malformed ones are left to the compiler, False allows nothing."""
    if not isinstance(schema, dict):
        return schema
    plain = with_any_of(_dependent(_without_annotations(schema)), arrays.root)
    made = _negated(_conditional(plain))
    if made is None:
        return False
    made = arrays.listed(made)
    for key in _OF_ONE:
        if isinstance(made.get(key), dict):
            made[key] = _prepared(made[key], arrays)
    for key in _OF_LISTS:
        if isinstance(made.get(key), list):
            made[key] = [_prepared(each, arrays) for each in made[key]]
    for key in _BY_NAME:
        if isinstance(made.get(key), dict):
            made[key] = {name: _prepared(each, arrays) for name, each in made[key].items()}
    return made


def _without_annotations(schema: Schema) -> Schema:
    """A copy without annotations."""
    idle = {key for key in schema if only_describes(key, schema[key])}
    if "if" not in schema:
        idle |= {"then", "else"}
    elif not {"then", "else"} & schema.keys():
        idle.add("if")
    return _without(schema, *idle)


def _dependent(schema: Schema) -> Schema:
    """`dependentRequired` and its kind, as conditions."""
    demands = []
    for key in _DEPENDENT:
        for name, wanted in schema.get(key, {}).items():
            then = {"required": wanted} if isinstance(wanted, list) else wanted
            demands.append({"if": {"required": [name]}, "then": then})
    if not demands:
        return schema
    return {**_without(schema, *_DEPENDENT), "allOf": [*schema.get("allOf", ()), *demands]}


def _conditional(schema: Schema) -> Schema:
    """`if`/`then`/`else` as alternatives: `if` and `then`, or not `if` and `else`."""
    if "if" not in schema:
        return schema
    otherwise = try_complement(schema["if"])
    if otherwise is None:
        return schema
    branches = [_both(schema["if"], schema.get("then", True))]
    if otherwise:
        branches.append(_both({"anyOf": otherwise}, schema.get("else", True)))
    return _and_any(_without(schema, "if", "then", "else"), branches)


def _negated(schema: Schema) -> Schema | None:
    """`not` as alternatives; None where nothing is allowed."""
    if "not" not in schema:
        return schema
    others = try_complement(schema["not"])
    if others is None:
        return schema
    return _and_any(_without(schema, "not"), others) if others else None


def _and_any(schema: Schema, branches: list[Any]) -> Schema:
    """The schema combined with one of the branches."""
    if True in branches or {} in branches:
        return schema
    branches = [each for each in branches if each is not False]
    if "anyOf" not in schema:
        return {**schema, "anyOf": branches}
    return {**schema, "allOf": [*schema.get("allOf", ()), {"anyOf": branches}]}


def _both(first: Any, second: Any) -> Any:
    if first is True or first == {}:
        return second
    return first if second is True or second == {} else {"allOf": [first, second]}


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}
