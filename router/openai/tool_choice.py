"""The tools that an answer may or must call: `tools`, `tool_choice` and `allowed_tools`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.requests.prompts import ToolChoice, ToolMode

FIELD = "tool_choice"
Tools = tuple[dict[str, Any], ...]


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A function by its name, in the format of chats or in that of responses."""

    type: str = "function"
    name: str | None = None
    function: _Named | None = None


class _Allowed(msgspec.Struct, frozen=True, kw_only=True):
    mode: str = "auto"
    tools: list[_Reference]


def checked_tools(tools: Any) -> Tools:
    """The tools. Raises InvalidRequest, which says which tool is not a function with a name."""
    for index, tool in enumerate(tools):
        field = f"tools[{index}]"
        if tool.get("type") != "function":
            kind = tool.get("type")
            raise InvalidRequest(f"a tool of type {kind!r}: only functions can be called", field)
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest("a function needs a name", f"{field}.function")
        if not isinstance(function.get("parameters", {}), dict | None):
            raise InvalidRequest(
                "a function's parameters are a JSON schema", f"{field}.function.parameters"
            )
    return tuple(tools)


def chosen_tools(
    tools: Sequence[Any], choice: str | dict[str, Any] | None
) -> tuple[Tools, ToolChoice | None]:
    """The tools that may be called, and whether a call is required. Raises InvalidRequest."""
    checked = checked_tools(tools)
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return checked, _tool_choice(choice)
    allowed = _allowed(choice)
    if allowed.mode not in ("auto", "required"):
        raise InvalidRequest(
            f"allowed_tools have mode {allowed.mode!r}: it must be auto or required", FIELD
        )
    names = {_name(each) for each in allowed.tools}
    kept = tuple(tool for tool in checked if tool["function"]["name"] in names)
    unknown = names - {tool["function"]["name"] for tool in kept}
    if unknown or not kept:
        named = ", ".join(sorted(unknown)) or "no tool"
        raise InvalidRequest(f"allowed_tools name {named}, which is not among the tools", FIELD)
    return kept, ToolChoice(ToolMode(allowed.mode))


def _allowed(choice: dict[str, Any]) -> _Allowed:
    try:
        return msgspec.convert(choice.get("allowed_tools", choice), _Allowed)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"allowed_tools: {error}", FIELD) from error


def _name(reference: _Reference) -> str:
    name = reference.function.name if reference.function is not None else reference.name
    if reference.type != "function" or name is None:
        raise InvalidRequest("allowed_tools: every tool must be a function with a name", FIELD)
    return name


def _tool_choice(choice: str | dict[str, Any] | None) -> ToolChoice | None:
    if choice is None:
        return None
    if choice in ("none", "auto", "required"):
        return ToolChoice(ToolMode(choice))
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(
            "tool_choice must be none, auto, required, name a function as "
            '{"type": "function", "function": {"name": …}}, or be of type allowed_tools',
            FIELD,
        )
    return ToolChoice(ToolMode.NAMED, name)
