"""Translates choices, EBNF and structural tags to llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from llguidance.gbnf_to_lark import any_to_lark

from grammar.errors import GrammarInvalid
from grammar.json_schema.prepare import prepared_text


class _Structure(msgspec.Struct, frozen=True):
    """A part of an answer between `begin` and `end` that follows the schema."""

    begin: str
    end: str
    schema: dict[str, Any] | bool


class _StructuralTag(msgspec.Struct, frozen=True):
    """Free text in which each trigger begins one of the structures."""

    structures: list[_Structure]
    triggers: list[str]


def one_of(choices: Sequence[str]) -> str:
    """A grammar of exactly one of these texts."""
    return "start: " + " | ".join(map(quoted, choices))


def quoted(text: str) -> str:
    """A Lark literal of the text."""
    return json.dumps(text)


def from_any(grammar: str) -> str:
    """Return Lark unchanged; translate EBNF of llama.cpp (GBNF), which begins at `root`.

    Takes up to seconds for a large grammar. Raises GrammarInvalid.
    """
    try:
        lark: str = any_to_lark(grammar)
    except Exception as error:  # the library raises nothing narrower for an unknown rule
        raise GrammarInvalid(f"the grammar is no EBNF: {error}") from error
    return lark


def from_structural_tag(tag: str, special_tokens: Mapping[str, int]) -> str:
    """Translate a structural tag: {"structures": [{"begin", "schema", "end"}], "triggers"}.

    Triggers, and parts of `begin` and `end`, may be special tokens. Raises GrammarInvalid.
    """
    try:
        wanted = msgspec.json.decode(tag, type=_StructuralTag)
    except msgspec.DecodeError as error:
        raise GrammarInvalid(f"the structural tag cannot be read: {error}") from error
    if not wanted.structures:
        raise GrammarInvalid("the structural tag has no structures")
    rules = [
        rule
        for index, structure in enumerate(wanted.structures)
        for rule in _tag(f"tag_{index}", structure, wanted.triggers, special_tokens)
    ]
    tags = " | ".join(f"tag_{index}" for index in range(len(wanted.structures)))
    return "\n".join([f"start: ({tags})* TEXT", r"TEXT: /(.|\n)*/", *rules]) + "\n"


def spelled(text: str, special_tokens: Mapping[str, int]) -> str:
    """Lark of the text; special tokens in it become token ids, since they match no text."""
    names = sorted(special_tokens, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return " ".join(
        f"<[{special_tokens[piece]}]>" if piece in special_tokens else quoted(piece)
        for piece in pieces
        if piece
    )


def token_ids(lark: str) -> frozenset[int]:
    """Token ids that a grammar refers to, one at a time."""
    return frozenset(map(int, re.findall(r"<\[(\d+)\]>", lark)))


def _tag(
    name: str, structure: _Structure, triggers: list[str], special_tokens: Mapping[str, int]
) -> list[str]:
    """Rules of one structure; free text before it ends at the first trigger."""
    trigger = next((each for each in triggers if each and structure.begin.startswith(each)), None)
    if trigger is None:
        raise GrammarInvalid(f"no trigger of the structural tag begins {structure.begin!r}")
    schema = prepared_text(json.dumps(structure.schema))
    begun = spelled(structure.begin.removeprefix(trigger), special_tokens)
    body = f"{begun} %json {schema} {spelled(structure.end, special_tokens)}"
    if trigger in special_tokens:
        return [f"{name}: TEXT {spelled(trigger, special_tokens)} {body}"]
    return [
        f"{name}_trigger[lazy]: TEXT {quoted(trigger)}",
        f"{name}: {name}_trigger {body}",
    ]
