"""Grammars of answers that are calls of tools and nothing else, in a format's own shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grammar.json_schema.prepare import prepared
from grammar.lark import quoted
from router.answers.tool_calls import deepseek

Spell = Callable[[str], str]
"""A mark as Lark has it: a special token where the model has one of that name, or else text."""

Tool = Mapping[str, Any]
"""In OpenAI's shape, {"type": "function", "function": {"name": …}}."""

JSON_SPACE = "[ \\n]{1,16}"


def hermes(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    opening, closing = spell("<tool_call>"), spell("</tool_call>")

    def call(name: str, arguments: str) -> str:
        head = '\n{"name": ' + json.dumps(name) + ', "arguments": '
        return " ".join([opening, quoted(head), arguments, quoted("}\n"), closing])

    return _lark(listed("call", "\n", several), tools, call)


def llama3_json(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    return _lark(
        listed("call", "; ", several),
        tools,
        lambda name, arguments: _object(name, "parameters", arguments),
    )


def mistral_list(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    calls = listed("call", ", ", several)
    return _lark(
        " ".join([spell("[TOOL_CALLS]"), quoted("["), calls, quoted("]")]),
        tools,
        lambda name, arguments: _object(name, "arguments", arguments),
    )


def mistral_named(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    opening, between = spell("[TOOL_CALLS]"), spell("[ARGS]")
    return _lark(
        "call+" if several else "call",
        tools,
        lambda name, arguments: " ".join([opening, quoted(name), between, arguments]),
    )


def nemotron(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    opening, closing = spell("<TOOLCALL>"), spell("</TOOLCALL>")
    calls = listed("call", ", ", several)
    return _lark(
        " ".join([opening, quoted("["), calls, quoted("]"), closing]),
        tools,
        lambda name, arguments: _object(name, "arguments", arguments),
    )


def deepseek_v3(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    """V3 and R1: the arguments stand in a fence."""

    def call(name: str, arguments: str) -> str:
        head = [spell(deepseek.CALL_BEGIN), quoted(deepseek.KIND), spell(deepseek.SEPARATOR)]
        fence = [quoted(f"{name}\n```json\n"), arguments, quoted("\n```")]
        return " ".join([*head, *fence, spell(deepseek.CALL_END)])

    return _deepseek(tools, spell, call, "\n", several=several)


def deepseek_v31(tools: Sequence[Tool], spell: Spell, *, several: bool) -> str:
    def call(name: str, arguments: str) -> str:
        head = [spell(deepseek.CALL_BEGIN), quoted(name), spell(deepseek.SEPARATOR)]
        return " ".join([*head, arguments, spell(deepseek.CALL_END)])

    return _deepseek(tools, spell, call, "", several=several)


def _deepseek(
    tools: Sequence[Tool],
    spell: Spell,
    call: Callable[[str, str], str],
    between: str,
    *,
    several: bool,
) -> str:
    begin, end = spell(deepseek.LIST_BEGIN), spell(deepseek.LIST_END)
    return _lark(" ".join([begin, listed("call", between, several), end]), tools, call)


def _lark(start: str, tools: Sequence[Tool], call: Callable[[str, str], str]) -> str:
    """`call` makes a rule's body of a tool's name and the rule of its arguments."""
    functions = [tool["function"] for tool in tools]
    bodies = [call(each["name"], f"arguments_{index}") for index, each in enumerate(functions)]
    arguments = [
        f"arguments_{index}: %json {json.dumps(enforced_schema(each))}"
        for index, each in enumerate(functions)
    ]
    return "\n".join([*call_rules(start, bodies), *arguments]) + "\n"


def call_rules(start: str, bodies: Sequence[str]) -> list[str]:
    """`start` speaks of the rule `call`, which has one of these bodies."""
    names = [f"call_{index}" for index in range(len(bodies))]
    rules = [f"{name}: {body}" for name, body in zip(names, bodies, strict=True)]
    return [f"start: {start}", "call: " + " | ".join(names), *rules]


def listed(rule: str, between: str, several: bool) -> str:
    """The rule once, or as often as the answer wants."""
    if not several:
        return rule
    return f"{rule} ({quoted(between)} {rule})*" if between else f"{rule}+"


def _object(name: str, key: str, arguments: str) -> str:
    head = '{"name": ' + json.dumps(name) + f', "{key}": '
    return " ".join([quoted(head), arguments, quoted("}")])


def enforced_schema(function: Mapping[str, Any], *, of_object: bool = True) -> dict[str, Any]:
    """Of the arguments, which are an object, or of one value.

    What the compiler cannot enforce is an error only for tools that are `strict`. Raises
    GrammarInvalid when nothing could follow it.
    """
    schema = dict(function.get("parameters") or {})
    if of_object:
        schema.setdefault("type", "object")
    made = prepared(schema, lenient=not function.get("strict"))
    return {**made, "x-guidance": {**made.get("x-guidance", {}), "whitespace_pattern": JSON_SPACE}}
