"""Grammars of answers that are calls of tools and nothing else, in a format's own shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Spell = Callable[[str], str]
"""A mark as Lark has it: a special token where the model has one of that name, or else text."""

Tool = Mapping[str, Any]
"""In OpenAI's shape, {"type": "function", "function": {"name": …}}."""

JSON_SPACE = "[ \\n]{1,16}"


def hermes(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    opening, closing = spell("<tool_call>"), spell("</tool_call>")

    def call(name: str, arguments: str) -> str:
        head = '\n{"name": ' + json.dumps(name) + ', "arguments": '
        return " ".join([opening, _text(head), arguments, _text("}\n"), closing])

    return _lark(_listed("call", "\n", several), tools, call)


def llama3_json(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    return _lark(
        _listed("call", "; ", several),
        tools,
        lambda name, arguments: _object(name, "parameters", arguments),
    )


def mistral_list(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    calls = _listed("call", ", ", several)
    return _lark(
        " ".join([spell("[TOOL_CALLS]"), _text("["), calls, _text("]")]),
        tools,
        lambda name, arguments: _object(name, "arguments", arguments),
    )


def mistral_named(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    opening, between = spell("[TOOL_CALLS]"), spell("[ARGS]")
    return _lark(
        "call+" if several else "call",
        tools,
        lambda name, arguments: " ".join([opening, _text(name), between, arguments]),
    )


def _lark(start: str, tools: Sequence[Tool], call: Callable[[str, str], str]) -> str:
    """`call` makes a rule's body of a tool's name and the rule of its arguments."""
    lines = [f"start: {start}", "call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for index, tool in enumerate(tools):
        name = tool["function"]["name"]
        lines.append(f"call_{index}: {call(name, f'arguments_{index}')}")
        lines.append(f"arguments_{index}: %json {json.dumps(_schema(tool['function']))}")
    return "\n".join(lines) + "\n"


def _listed(rule: str, between: str, several: bool) -> str:
    return f"{rule} ({_text(between)} {rule})*" if several else rule


def _object(name: str, key: str, arguments: str) -> str:
    head = '{"name": ' + json.dumps(name) + f', "{key}": '
    return " ".join([_text(head), arguments, _text("}")])


def _schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments, which are an object.

    What the compiler cannot enforce is an error only for tools that are `strict`.
    """
    schema = dict(function.get("parameters") or {})
    schema.setdefault("type", "object")
    lenient = not function.get("strict")
    return {**schema, "x-guidance": {"whitespace_pattern": JSON_SPACE, "lenient": lenient}}


def _text(text: str) -> str:
    return json.dumps(text)
