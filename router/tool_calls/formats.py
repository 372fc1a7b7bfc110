"""The formats in which models call tools, by name, and which one a model has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.errors import StartError
from router.tool_calls import enforced
from router.tool_calls.enforced import Spell, Tool
from router.tool_calls.hermes import HermesScanner
from router.tool_calls.llama3 import PYTHON_TAG, Llama3Scanner
from router.tool_calls.mistral import ARGUMENTS, CALL_ID, OPENING, MistralScanner
from router.tool_calls.pythonic import PythonicScanner
from router.tool_calls.scanner import CallScanner


class Enforce(Protocol):
    """A grammar of one call, or with `several` of one or more."""

    def __call__(self, tools: Sequence[Tool], spell: Spell, *, several: bool) -> str: ...


@dataclass(frozen=True)
class ToolFormat:
    """`scan` makes a scanner that knows the tools' names. `marks` are special tokens that it must
    see in the text. Where calls cannot be enforced in the format, they are in another."""

    name: str
    scan: Callable[[frozenset[str]], CallScanner]
    enforce: Enforce | None = None
    marks: tuple[str, ...] = ()


HERMES = ToolFormat(
    "hermes", lambda known: HermesScanner(), enforced.hermes, ("<tool_call>", "</tool_call>")
)
LLAMA3_JSON = ToolFormat("llama3_json", Llama3Scanner, enforced.llama3_json, (PYTHON_TAG,))
MISTRAL_LIST = ToolFormat(
    "mistral_list", lambda known: MistralScanner(), enforced.mistral_list, (OPENING,)
)
MISTRAL_NAMED = ToolFormat(
    "mistral_named",
    lambda known: MistralScanner(),
    enforced.mistral_named,
    (OPENING, ARGUMENTS, CALL_ID),
)
PYTHONIC = ToolFormat("pythonic", PythonicScanner)

FORMATS = {each.name: each for each in (HERMES, LLAMA3_JSON, MISTRAL_LIST, MISTRAL_NAMED, PYTHONIC)}


def find_format(name: str, template: str | None, has_token: Callable[[str], bool]) -> ToolFormat:
    """The one that is configured, or with "auto" the one that the chat template shows.

    `has_token` tells of special tokens. Raises StartError for an unknown name.
    """
    if name == "mistral":
        return MISTRAL_NAMED if has_token(ARGUMENTS) else MISTRAL_LIST
    if name in FORMATS:
        return FORMATS[name]
    if name != "auto":
        known = ", ".join(["auto", "mistral", *FORMATS])
        raise StartError(f"tool_parser is {name!r}: it must be one of {known}")
    return _shown_by(template or "", has_token)


def _shown_by(template: str, has_token: Callable[[str], bool]) -> ToolFormat:
    """JSON by itself where nothing is known: only an object that names a tool counts."""
    if "<tool_call>" in template:
        return HERMES
    if OPENING in template or has_token(OPENING):
        return find_format("mistral", template, has_token)
    return LLAMA3_JSON
