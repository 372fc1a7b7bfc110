"""The grammar of answers that consist of calls in Qwen3-Coder's format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grammar import lark
from grammar.errors import GrammarInvalid
from router.answers.tool_calls.enforced import Tool, WriteMark, call_rules, enforced_schema, listed
from router.answers.tool_calls.qwen_coder import kinds, properties_of

VALUE_END = "\n</parameter>\n"
ANY_TEXT = r"any_text[lazy]: /(?s:.*)\n<\/parameter>\n/"
ANY_PARAMETERS = r'any_parameters: ("<parameter=" /[^>\n]{1,64}/ ">\n" any_text)*'
UNENFORCED = ("pattern", "format", "minLength", "maxLength")
"""Keywords for strings that cannot be enforced, since a string is any text up to its end tag."""


def qwen_coder(tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str:
    """The grammar, with parameters in the order of the tool's properties.

    Raises GrammarInvalid if a `strict` tool restricts a string other than to an enumeration.
    """
    rules = [ANY_TEXT, ANY_PARAMETERS]
    bodies = []
    for index, tool in enumerate(tools):
        head = f"\n<function={tool['function']['name']}>\n"
        parts = [write_mark("<tool_call>"), lark.quoted(head), f"parameters_{index}"]
        bodies.append(" ".join([*parts, lark.quoted("</function>\n"), write_mark("</tool_call>")]))
        rules += _parameters(f"parameters_{index}", tool)
    return "\n".join([*call_rules(listed("call", "\n", several), bodies), *rules]) + "\n"


def _parameters(name: str, tool: Tool) -> Iterator[str]:
    schema = enforced_schema(tool["function"])
    wanted, places = schema.get("required"), []
    required = wanted if isinstance(wanted, list) else []
    for index, (key, value) in enumerate(properties_of(tool).items()):
        rule = f"{name}_{index}"
        places.append(rule if key in required else f"{rule}?")
        shared = {each: defs for each, defs in schema.items() if each in ("$defs", "definitions")}
        head = lark.quoted(f"<parameter={key}>\n")
        yield f"{rule}: {head} {_value(key, value, shared, tool)}"
    yield f"{name}: {' '.join(places) if places else 'any_parameters'}"


def _value(key: str, schema: Any, shared: Mapping[str, Any], tool: Tool) -> str:
    """The rule of one value with its end tag. Raises GrammarInvalid."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, Mapping):
        raise GrammarInvalid(f"parameter {key!r} has no schema, but {schema!r}")
    if "string" not in kinds(schema):
        wanted = enforced_schema({**tool["function"], "parameters": schema}, of_object=False)
        return f"%json {json.dumps({**shared, **wanted})} {lark.quoted(VALUE_END)}"
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choices, list) and choices:
        texts = [each if isinstance(each, str) else json.dumps(each) for each in choices]
        return f"({' | '.join(map(lark.quoted, texts))}) {lark.quoted(VALUE_END)}"
    unenforced = [each for each in UNENFORCED if each in schema]
    if unenforced and tool["function"].get("strict"):
        raise GrammarInvalid(
            f"parameter {key!r} is a text with {', '.join(unenforced)}, which cannot be enforced "
            "in this model's format of calls"
        )
    return "any_text"
