"""The format of Qwen3-Coder: parameters are text between tags, typed by the tool's schema.

<tool_call> ⏎ <function=NAME> ⏎ <parameter=KEY> ⏎ VALUE ⏎ </parameter> ⏎ </function> ⏎ </tool_call>
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from grammar.json_schema.references import resolved
from router.answers.tool_calls.enforced import Tool
from router.answers.tool_calls.scanner import CallScanner, MakeId, random_call_id

OPENING, CLOSING = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
HEAD = re.compile(r"\s{0,16}<function=([^>\n]{1,128})>")
MAX_HEAD = 160
"""Maximum number of characters in a call's head."""
KEY = re.compile(r"<parameter=([^>\n]{1,256})>\n?")
MAX_KEY = 300


class QwenCoderScanner(CallScanner):
    """Any number of calls of known tools, with text before, between and after them."""

    def __init__(self, tools: Sequence[Tool], make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id)
        self._schemas = {tool["function"]["name"]: properties_of(tool) for tool in tools}
        self._mark = ""
        self._schema: Mapping[str, Any] = {}
        self._value_schema: Any = None
        self._first = self._quoted = False
        """No parameter of the call, or no character of the value, was emitted yet (or was, for
        `_quoted`)."""

    def outside(self, done: bool) -> bool:
        """Look for a call; models sometimes omit the outer tag."""
        mark = self.emit_until((OPENING, FUNCTION), done)
        if mark is None:
            return False
        self._mark = mark
        if mark.endswith(FUNCTION):
            self.pending, self._mark = FUNCTION + self.pending, mark.removesuffix(FUNCTION)
        return self.then(self._head)

    def _head(self, done: bool) -> bool:
        found = HEAD.match(self.pending)
        if found is None and self._may_be_head() and not done:
            return False
        if found is None or found[1] not in self._schemas:
            return self._no_call()
        self._schema, self._first = self._schemas[found[1]], True
        self.begin_call(found[1], "{")
        self.drop(found.end())
        return self.then(self._parameters)

    def _may_be_head(self) -> bool:
        text = self.pending.lstrip()
        if len(self.pending) > MAX_HEAD or "\n" in text:
            return False
        return text.startswith(FUNCTION) or FUNCTION.startswith(text)

    def _no_call(self) -> bool:
        """Emit as text what only looked like a call, so that it is not examined again."""
        self.emit_text(self._mark)
        text = self.pending.lstrip()
        if text.startswith(FUNCTION):
            self.emit_pending(len(self.pending) - len(text) + len(FUNCTION))
        return self.then(self.outside)

    def _parameters(self, done: bool) -> bool:
        """Before a parameter, or after the last one. A truncated call stays incomplete."""
        if not self.skip_whitespace():
            return False
        found = KEY.match(self.pending)
        if found is not None and (done or found.end() < len(self.pending)):
            return self._begin_parameter(found)
        if not done and self._may_be_parameter():
            return False
        self.emit_arguments("}")
        return self.then(self._closing)

    def _may_be_parameter(self) -> bool:
        text = self.pending
        return PARAMETER.startswith(text) or (text.startswith(PARAMETER) and len(text) < MAX_KEY)

    def _begin_parameter(self, found: re.Match[str]) -> bool:
        key = found[1].strip()
        between = "" if self._first else ", "
        self.emit_arguments(f"{between}{json.dumps(key, ensure_ascii=False)}: ")
        self._first, self._quoted = False, False
        self._value_schema = self._schema.get(key)
        self.drop(found.end())
        return self.then(self._value)

    def _value(self, done: bool) -> bool:
        """Emit strings as they arrive, and other values when they are complete."""
        text = kinds(self._value_schema) == {"string"}
        end = self.pending.find(PARAMETER_END)
        if end < 0:
            if text:
                self._emit_text_value(0 if done else _num_of_end(self.pending))
            return False
        value = self.pending[:end].removesuffix("\n")
        if text:
            self._emit_text_value(len(self.pending) - len(value))
            self.emit_arguments('"' if self._quoted else '""')
        else:
            self.emit_arguments(converted(value, self._value_schema))
        self.drop(self.pending.find(PARAMETER_END) + len(PARAMETER_END))
        return self.then(self._parameters)

    def _emit_text_value(self, num_held_back: int) -> None:
        """Emit all of the pending text but its last `num_held_back` characters."""
        emitted = self.pending[: len(self.pending) - num_held_back]
        if emitted:
            quote = "" if self._quoted else '"'
            self.emit_arguments(quote + json.dumps(emitted, ensure_ascii=False)[1:-1])
            self._quoted = True
            self.drop(len(emitted))

    def _closing(self, done: bool) -> bool:
        return self.skip_one_of((FUNCTION_END, CLOSING), done) and self.then(self.outside)


def kinds(schema: Any) -> set[str]:
    """The types that a value may have; empty if the schema does not say."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type")
    listed = named if isinstance(named, list) else [named]
    found = {each for each in listed if isinstance(each, str)}
    for options in (schema.get("anyOf"), schema.get("oneOf")):
        for each in options if isinstance(options, list) else ():
            found |= kinds(each)
    return found


def converted(value: str, schema: Any) -> str:
    """The value's JSON, converted from its text; a string if it is nothing else."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = json.dumps(read(value.strip()), ensure_ascii=False, allow_nan=False)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if "string" not in kinds(schema) or found == "null" or found[0] in "{[":
            return found
    return json.dumps(value, ensure_ascii=False)


def properties_of(tool: Tool) -> Mapping[str, Any]:
    """The schemas of a tool's parameters, with references to the tool's definitions resolved."""
    schema = tool["function"].get("parameters") or {}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {key: resolved(wanted, schema) for key, wanted in properties.items()}


def _num_of_end(text: str) -> int:
    """Length of the longest suffix that may begin the end of a value."""
    mark = f"\n{PARAMETER_END}"
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    whole = next((size for size in sizes if text.endswith(mark[:size])), 0)
    bare = next((size for size in sizes if text.endswith(PARAMETER_END[:size])), 0)
    return max(whole, bare)
