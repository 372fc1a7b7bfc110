"""Grammars for answers that consist of tool calls only, in each format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grammar.json_schema.prepare import prepared
from grammar.lark import quoted
from router.answers.tool_calls import deepseek

WriteMark = Callable[[str], str]
"""Writes a mark in Lark: as a special token if the model has one of that name, else as text."""

Tool = Mapping[str, Any]
"""A tool in OpenAI's format: {"type": "function", "function": {"name": …}}."""

JSON_SPACE = "[ \\n]{1,16}"


def hermes(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    opening, closing = write_mark("<tool_call>"), write_mark("</tool_call>")

    def call(name: str, arguments: str) -> str:
        head = '\n{"name": ' + json.dumps(name) + ', "arguments": '
        return " ".join([opening, quoted(head), arguments, quoted("}\n"), closing])

    return _lark(listed("call", "\n", several), tools, call)


def llama3_json(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    return _lark(
        listed("call", "; ", several),
        tools,
        lambda name, arguments: _object(name, "parameters", arguments),
    )


def mistral_list(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    calls = listed("call", ", ", several)
    return _lark(
        " ".join([write_mark("[TOOL_CALLS]"), quoted("["), calls, quoted("]")]),
        tools,
        lambda name, arguments: _object(name, "arguments", arguments),
    )


def mistral_named(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    opening, between = write_mark("[TOOL_CALLS]"), write_mark("[ARGS]")
    return _lark(
        "call+" if several else "call",
        tools,
        lambda name, arguments: " ".join([opening, quoted(name), between, arguments]),
    )


def nemotron(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    opening, closing = write_mark("<TOOLCALL>"), write_mark("</TOOLCALL>")
    calls = listed("call", ", ", several)
    return _lark(
        " ".join([opening, quoted("["), calls, quoted("]"), closing]),
        tools,
        lambda name, arguments: _object(name, "arguments", arguments),
    )


def deepseek_v3(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    """Grammar for V3 and R1, with the arguments in a fence."""

    def call(name: str, arguments: str) -> str:
        head = [
            write_mark(deepseek.CALL_BEGIN),
            quoted(deepseek.KIND),
            write_mark(deepseek.SEPARATOR),
        ]
        fence = [quoted(f"{name}\n```json\n"), arguments, quoted("\n```")]
        return " ".join([*head, *fence, write_mark(deepseek.CALL_END)])

    return _deepseek(tools, write_mark, call, "\n", several=several)


def deepseek_v31(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    def call(name: str, arguments: str) -> str:
        head = [write_mark(deepseek.CALL_BEGIN), quoted(name), write_mark(deepseek.SEPARATOR)]
        return " ".join([*head, arguments, write_mark(deepseek.CALL_END)])

    return _deepseek(tools, write_mark, call, "", several=several)


def _deepseek(
    tools: Sequence[Tool],
    write_mark: WriteMark,
    call: Callable[[str, str], str],
    between: str,
    *,
    several: bool,
) -> str:
    begin, end = write_mark(deepseek.LIST_BEGIN), write_mark(deepseek.LIST_END)
    return _lark(" ".join([begin, listed("call", between, several), end]), tools, call)


def _lark(start: str, tools: Sequence[Tool], call: Callable[[str, str], str]) -> str:
    """The whole grammar. `call(name, arguments)` returns the body of a tool's rule, given the name
    of the rule for its arguments."""
    functions = [tool["function"] for tool in tools]
    bodies = [call(each["name"], f"arguments_{index}") for index, each in enumerate(functions)]
    arguments = [
        f"arguments_{index}: %json {json.dumps(enforced_schema(each))}"
        for index, each in enumerate(functions)
    ]
    return "\n".join([*call_rules(start, bodies), *arguments]) + "\n"


def call_rules(start: str, bodies: Sequence[str]) -> list[str]:
    """Rules for `start`, which refers to the rule `call`, and for its alternatives."""
    names = [f"call_{index}" for index in range(len(bodies))]
    rules = [f"{name}: {body}" for name, body in zip(names, bodies, strict=True)]
    return [f"start: {start}", "call: " + " | ".join(names), *rules]


def listed(rule: str, between: str, several: bool) -> str:
    """The rule once, or any number of times."""
    if not several:
        return rule
    return f"{rule} ({quoted(between)} {rule})*" if between else f"{rule}+"


def _object(name: str, key: str, arguments: str) -> str:
    head = '{"name": ' + json.dumps(name) + f', "{key}": '
    return " ".join([quoted(head), arguments, quoted("}")])


def enforced_schema(function: Mapping[str, Any], *, of_object: bool = True) -> dict[str, Any]:
    """The schema to enforce for a function's arguments, or for one value.

    Unsupported keywords are an error only for `strict` tools. Raises GrammarInvalid if no value can
    match.
    """
    schema = dict(function.get("parameters") or {})
    if of_object:
        schema.setdefault("type", "object")
    made = prepared(schema, lenient=not function.get("strict"))
    return {**made, "x-guidance": {**made.get("x-guidance", {}), "whitespace_pattern": JSON_SPACE}}
