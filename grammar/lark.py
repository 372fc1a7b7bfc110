"""Other ways of saying what an answer may be, in llguidance's dialect of Lark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from llguidance import StructTag
from llguidance.gbnf_to_lark import any_to_lark

from grammar.errors import GrammarInvalid


class _Structure(msgspec.Struct, frozen=True):
    """From `begin` on the answer follows the schema, up to `end`."""

    begin: str
    end: str
    schema: dict[str, Any] | bool


class _StructuralTag(msgspec.Struct, frozen=True):
    """Free text, but that each trigger is the beginning of one of the structures."""

    structures: list[_Structure]
    triggers: list[str]


def one_of(choices: Sequence[str]) -> str:
    """Exactly one of these texts."""
    return "start: " + " | ".join(map(quoted, choices))


def quoted(text: str) -> str:
    """The text itself."""
    return json.dumps(text)


def from_any(grammar: str) -> str:
    """Lark as it is; EBNF as llama.cpp writes it, which begins at `root`, translated.

    Takes up to seconds for a large one. Raises GrammarInvalid.
    """
    try:
        lark: str = any_to_lark(grammar)
    except Exception as error:  # the library raises nothing narrower for an unknown rule
        raise GrammarInvalid(f"the grammar is no EBNF: {error}") from error
    return lark


def from_structural_tag(tag: str) -> str:
    """From the JSON of a structural tag: {"structures": [{"begin", "schema", "end"}], "triggers"}.

    Raises GrammarInvalid.
    """
    try:
        wanted = msgspec.json.decode(tag, type=_StructuralTag)
    except msgspec.DecodeError as error:
        raise GrammarInvalid(f"the structural tag cannot be read: {error}") from error
    if not wanted.structures:
        raise GrammarInvalid("the structural tag has no structures")
    return str(StructTag.to_grammar([_tag(each, wanted.triggers) for each in wanted.structures]))


def _tag(structure: _Structure, triggers: list[str]) -> StructTag:
    trigger = next((each for each in triggers if each and structure.begin.startswith(each)), None)
    if trigger is None:
        raise GrammarInvalid(f"no trigger of the structural tag begins {structure.begin!r}")
    schema = structure.schema if isinstance(structure.schema, dict) else {}
    return StructTag(trigger=trigger, begin=structure.begin, grammar=schema, end=structure.end)
