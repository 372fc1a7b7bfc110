"""Structured outputs: maps the various request fields to one constraint."""

from __future__ import annotations

from collections.abc import Iterator

from router.errors import InvalidRequest
from router.openai.prompt_parsing import json_text
from router.openai.request_bodies import CommonBody, ResponseFormat, StructuredOutputs
from router.requests.prompts import Constraint, ConstraintKind


def constraint_of(body: CommonBody) -> Constraint | None:
    """The constraint, if any. Raises InvalidRequest if there are several, or one is incomplete."""
    found = [*_all(body)]
    if len(found) > 1:
        names = " and ".join(each.field for each in found)
        raise InvalidRequest(f"{names}: an answer can follow one of them", found[1].field)
    return found[0] if found else None


def _all(body: CommonBody) -> Iterator[Constraint]:
    if body.response_format is not None and body.response_format.type != "text":
        yield _response_format(body.response_format)
    if body.structured_outputs is not None:
        yield from _structured(body.structured_outputs)
    kinds = ConstraintKind
    spelled = {
        "regex": (kinds.REGEX, body.regex),
        "json_schema": (kinds.JSON_SCHEMA, body.json_schema),
        "ebnf": (kinds.GRAMMAR, body.ebnf),
        "guided_json": (kinds.JSON_SCHEMA, body.guided_json),
        "guided_regex": (kinds.REGEX, body.guided_regex),
        "guided_choice": (kinds.CHOICE, body.guided_choice),
        "guided_grammar": (kinds.GRAMMAR, body.guided_grammar),
    }
    for field, (kind, value) in spelled.items():
        if value is not None:
            yield Constraint(kind=kind, text=json_text(value), field=field)


def _response_format(wanted: ResponseFormat) -> Constraint:
    field = "response_format"
    match wanted.type:
        case "json_object":
            return Constraint(kind=ConstraintKind.JSON_OBJECT, field=field)
        case "json_schema":
            if wanted.json_schema is None or wanted.json_schema.schema is None:
                raise InvalidRequest("response_format has no schema", f"{field}.json_schema")
            return Constraint(
                kind=ConstraintKind.JSON_SCHEMA,
                text=json_text(wanted.json_schema.schema),
                field=field,
                lenient=wanted.json_schema.strict is False,
            )
        case "structural_tag":
            return Constraint(
                kind=ConstraintKind.STRUCTURAL_TAG, text=json_text(wanted), field=field
            )
    raise InvalidRequest(
        f"response_format is of type {wanted.type!r}: it must be text, json_object, json_schema "
        "or structural_tag",
        f"{field}.type",
    )


def _structured(wanted: StructuredOutputs) -> Iterator[Constraint]:
    kinds = ConstraintKind
    spelled = {
        "json": (kinds.JSON_SCHEMA, wanted.json),
        "regex": (kinds.REGEX, wanted.regex),
        "choice": (kinds.CHOICE, wanted.choice),
        "grammar": (kinds.GRAMMAR, wanted.grammar),
        "json_object": (kinds.JSON_OBJECT, "" if wanted.json_object else None),
        "structural_tag": (kinds.STRUCTURAL_TAG, wanted.structural_tag),
    }
    for name, (kind, value) in spelled.items():
        if value is not None:
            field = f"structured_outputs.{name}"
            yield Constraint(kind=kind, text=json_text(value), field=field)
