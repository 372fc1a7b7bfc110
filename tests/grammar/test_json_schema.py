"""Keywords that the compiler lacks, said in those that it has; and what only describes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar.compiler import compile_grammar
from grammar.errors import GrammarInvalid
from grammar.json_schema.prepare import prepared, prepared_text
from grammar.json_schema.texts import other_texts
from grammar.vocabulary import Vocabulary, read_vocabulary
from wire.sampling import Grammar, GrammarKind

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(Path("models/tiny-python/tokenizer.json"), 2048, [1])


def accepts(vocabulary: Vocabulary, schema: Any, value: object) -> bool:
    text = prepared_text(json.dumps(schema))
    matcher = compile_grammar(Grammar(GrammarKind.JSON_SCHEMA, text), vocabulary)
    try:
        matcher.consume(vocabulary.tokenizer.tokenize_str(json.dumps(value, ensure_ascii=False)))
    except GrammarInvalid:
        return False
    return matcher.may_end


def an_object(**members: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, **members}


KIND_AND_SIZE = {"kind": {"enum": ["x", "y"]}, "size": {"type": "integer"}}
IF_X = {"properties": {"kind": {"const": "x"}}, "required": ["kind"]}
OPTIONS = {
    "A": an_object(properties={"k": {"const": "a", "type": "string"}, "x": {"type": "integer"}}),
    "B": an_object(properties={"k": {"const": "b", "type": "string"}, "x": {"type": "string"}}),
}


def postal(country: str, digits: int) -> dict[str, Any]:
    return {
        "if": {"properties": {"country": {"const": country}}},
        "then": {"properties": {"code": {"pattern": f"^[0-9]{{{digits}}}$"}}},
    }


CASES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "not some texts": (
        {"type": "string", "not": {"enum": ["admin", "root"]}},
        ["a", "adm", "admins", "", "x\ny", "é"],
        ["admin", "root", 1],
    ),
    "not a choice": ({"enum": ["a", "b", 1], "not": {"const": "b"}}, ["a", 1], ["b", 2]),
    "not a number": ({"type": "integer", "not": {"const": 5}}, [4, 6, -5, 55], [5]),
    "not numbers": ({"type": "integer", "not": {"enum": [5, 6, 8]}}, [4, 7, 9], [5, 6, 8]),
    "not a flag": ({"type": ["boolean", "null"], "not": {"const": True}}, [False, None], [True]),
    "not a type": ({"not": {"type": ["string", "null"]}}, [1, True, {}, []], ["a", None]),
    "not over": ({"type": "integer", "not": {"minimum": 3}}, [2, -7], [3, 4]),
    "not not": ({"not": {"not": {"type": "string", "pattern": "^a"}}}, ["ab"], ["b", 1]),
    "neither": (
        {"type": ["integer", "string"], "not": {"anyOf": [{"const": "a"}, {"const": 3}]}},
        ["b", 2],
        ["a", 3],
    ),
    "not both": (
        an_object(
            properties={"a": {"type": "integer"}, "b": {"type": "integer"}},
            **{"not": {"required": ["a", "b"]}},
        ),
        [{"a": 1}, {"b": 1}, {}],
        [{"a": 1, "b": 2}],
    ),
    "if then": (
        an_object(
            properties=KIND_AND_SIZE,
            required=["kind"],
            **{"if": IF_X, "then": {"required": ["size"]}},
        ),
        [{"kind": "x", "size": 1}, {"kind": "y"}, {"kind": "y", "size": 1}],
        [{"kind": "x"}, {}],
    ),
    "if then else": (
        an_object(
            properties=KIND_AND_SIZE,
            required=["kind"],
            **{
                "if": IF_X,
                "then": {"required": ["size"]},
                "else": {"properties": {"size": False}},
            },
        ),
        [{"kind": "x", "size": 1}, {"kind": "y"}],
        [{"kind": "x"}, {"kind": "y", "size": 2}],
    ),
    "several ifs": (
        {
            "type": "object",
            "properties": {"country": {"type": "string"}, "code": {"type": "string"}},
            "required": ["country"],
            "allOf": [postal("US", 5), postal("NL", 4)],
        },
        [
            {"country": "US", "code": "12345"},
            {"country": "NL", "code": "1234"},
            {"country": "DE", "code": "x"},
            {"country": "US"},
        ],
        [{"country": "US", "code": "1234"}, {"country": "NL", "code": "12345"}],
    ),
    "then alone": ({"type": "integer", "then": {"minimum": 3}}, [1], ["a"]),
    "unique choices": (
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1},
        [["a"], ["c", "a"], ["b", "a", "c"]],
        [[], ["a", "a"], ["a", "b", "a"], "a"],
    ),
    "unique flags": (
        {"items": {"$ref": "#/$defs/f"}, "uniqueItems": True, "$defs": {"f": {"type": "boolean"}}},
        [[], [True, False], "text", 3],
        [[True, True]],
    ),
    "at most one": (
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 1},
        [[], ["a"]],
        [["a", "b"]],
    ),
    "not unique": (
        {"type": "array", "items": {"type": "string"}, "uniqueItems": False},
        [["x", "x"]],
        [1],
    ),
    "discriminated": (
        {
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
            "discriminator": {"propertyName": "k", "mapping": {}},
            "$defs": OPTIONS,
        },
        [{"k": "a", "x": 1}, {"k": "b", "x": "s"}],
        [{"k": "a", "x": "s"}, {}],
    ),
    "one of definitions": (
        {
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
            "$defs": {name: {**each, "required": ["k"]} for name, each in OPTIONS.items()},
        },
        [{"k": "a", "x": 1}, {"k": "b", "x": "s"}],
        [{"k": "a", "x": "s"}, {}],
    ),
    "one of closed objects": (
        {
            "oneOf": [
                an_object(properties={"a": {"type": "integer"}}, required=["a"]),
                an_object(properties={"b": {"type": "integer"}}, required=["b"]),
            ]
        },
        [{"a": 1}, {"b": 1}],
        [{}, {"a": 1, "b": 1}],
    ),
    "one of two properties": (
        an_object(
            properties={"a": {"type": "integer"}, "b": {"type": "integer"}},
            oneOf=[{"required": ["a"]}, {"required": ["b"]}],
        ),
        [{"a": 1}, {"b": 1}],
        [{"a": 1, "b": 1}, {}],
    ),
    "one of ranges": (
        {"type": "integer", "oneOf": [{"minimum": 3}, {"maximum": 5}]},
        [2, 6],
        [3, 4, 5],
    ),
    "one of all and some": ({"type": "string", "oneOf": [True, {"minLength": 1}]}, [""], ["a"]),
    "one of types": ({"oneOf": [{"type": "string"}, {"const": None}]}, ["a", None], [1]),
    "dependent": (
        an_object(
            properties={"a": {"type": "integer"}, "b": {"type": "integer"}},
            dependentRequired={"a": ["b"]},
            dependentSchemas={"b": {"properties": {"b": {"minimum": 3}}}},
        ),
        [{}, {"b": 3}, {"a": 1, "b": 3}],
        [{"a": 1}, {"b": 1}],
    ),
    "described": ({"type": "string", "format": "password"}, ["x"], [1]),
    "described within": (
        an_object(properties={"a": {"type": ["string", "null"], "format": "binary"}}),
        [{"a": "x"}, {"a": None}],
        [{"a": 1}],
    ),
    "a property named format": (
        an_object(properties={"format": {"enum": ["password"]}}, required=["format"]),
        [{"format": "password"}],
        [{}],
    ),
    "anything": (True, [1, "a", {}], []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_compiler_lacks_is_enforced_all_the_same(
    vocabulary: Vocabulary, name: str
) -> None:
    schema, good, bad = CASES[name]
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert all(map(valid, good))
    assert not any(map(valid, bad))
    assert [value for value in good if not accepts(vocabulary, schema, value)] == []
    assert [value for value in bad if accepts(vocabulary, schema, value)] == []


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"not": {"pattern": "x"}}, 'Unimplemented keys: ["not"]'),
        ({"if": {"pattern": "x"}, "then": {"minLength": 2}}, 'Unimplemented keys: ["if", "then"]'),
        ({"items": {"type": "string"}, "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"items": {"enum": [*range(33)]}, "uniqueItems": True}, "uniqueItems"),
        ({"items": {"enum": [*range(8)]}, "uniqueItems": True}, "uniqueItems"),
        ({"not": {"required": 5}}, 'Unimplemented keys: ["not"]'),
        ({"type": "string", "format": "ipv4", "not": {"format": "ipv4"}}, "not"),
        ({"contains": {}}, 'Unimplemented keys: ["contains"]'),
        ({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}, "oneOf constraints are not supported"),
        ({"oneOf": [True, True]}, "no value can follow it"),
        ({"not": {}}, "no value can follow it"),
        (False, "no value can follow it"),
    ],
    ids=str,
)
def test_what_cannot_be_enforced_is_refused_by_name(
    vocabulary: Vocabulary, schema: Any, complaint: str
) -> None:
    with pytest.raises(GrammarInvalid, match=re.escape(complaint)):
        accepts(vocabulary, schema, 1)


def test_what_cannot_be_enforced_is_no_error_where_that_is_asked_for(
    vocabulary: Vocabulary,
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text = prepared_text(json.dumps(schema), lenient=True)
    matcher = compile_grammar(Grammar(GrammarKind.JSON_SCHEMA, text), vocabulary)
    matcher.consume(vocabulary.tokenizer.tokenize_str('{"a": ["x", "x"]}'))
    assert matcher.may_end


def test_nothing_grows_beyond_what_is_allowed() -> None:
    array = {"items": {"enum": [1, 2, 3, 4, 5]}, "uniqueItems": True}
    many = prepared({"properties": {f"p{number}": array for number in range(100)}})
    expanded = [each for each in many["properties"].values() if "uniqueItems" not in each]
    assert len(expanded) == 3
    chain: dict[str, Any] = {}
    for number in range(40):
        condition = {"properties": {"k": {"const": f"v{number}"}}, "required": ["k"]}
        chain = {"if": condition, "then": {"required": [f"p{number}"]}, "else": chain}
    assert len(json.dumps(prepared(chain))) < 64 * 1024
    deep = "[" * 100_000
    with pytest.raises(GrammarInvalid, match="nested too deeply"):
        prepared_text(f'{{"const": {deep}')


@given(st.lists(st.text("ab[]\\^.\n", max_size=4), min_size=1, max_size=4), st.text("ab[]\\^.\n"))
def test_other_texts_are_all_but_those(texts: list[str], other: str) -> None:
    pattern = re.compile(other_texts(texts).replace("$", r"\Z"))
    assert not any(map(pattern.match, texts))
    assert bool(pattern.match(other)) is (other not in texts)
