"""Tool call formats by name, and detection of a model's format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.answers.tool_calls import deepseek, enforced
from router.answers.tool_calls.deepseek import DeepSeekScanner
from router.answers.tool_calls.enforced import Tool, WriteMark
from router.answers.tool_calls.hermes import HermesScanner
from router.answers.tool_calls.llama3 import PYTHON_TAG, Llama3Scanner
from router.answers.tool_calls.mistral import ARGUMENTS, CALL_ID, OPENING, MistralScanner
from router.answers.tool_calls.nemotron import NemotronScanner
from router.answers.tool_calls.pythonic import PythonicScanner
from router.answers.tool_calls.qwen_coder import QwenCoderScanner
from router.answers.tool_calls.qwen_coder_grammar import qwen_coder
from router.answers.tool_calls.scanner import CallScanner
from router.errors import StartError


class Enforce(Protocol):
    """Builds the grammar of one call, or with `several` of one or more."""

    def __call__(self, tools: Sequence[Tool], write_mark: WriteMark, *, several: bool) -> str: ...


@dataclass(frozen=True)
class ToolFormat:
    """A format of tool calls.

    `scan` creates a scanner of answers that may call these tools. `marks` are special tokens that
    the scanner must see as text, and `opening` is the text that begins a call. A format without
    `enforce` uses another format for required calls.
    """

    name: str
    scan: Callable[[Sequence[Tool]], CallScanner]
    enforce: Enforce | None = None
    marks: tuple[str, ...] = ()
    opening: str | None = None
    bare: bool = False
    """Whether a call looks like any other JSON."""

    @property
    def calls_are_marked(self) -> bool:
        """Whether a call's first character distinguishes it from an answer that follows a
        grammar."""
        return self.enforce is not None and not self.bare


def _names(tools: Sequence[Tool]) -> frozenset[str]:
    return frozenset(tool["function"]["name"] for tool in tools)


HERMES = ToolFormat(
    "hermes",
    lambda tools: HermesScanner(),
    enforced.hermes,
    ("<tool_call>", "</tool_call>"),
    "<tool_call>",
)
QWEN_CODER = ToolFormat(
    "qwen3_coder",
    QwenCoderScanner,
    qwen_coder,
    ("<tool_call>", "</tool_call>"),
    "<tool_call>",
)
DEEPSEEK_V3 = ToolFormat(
    "deepseek_v3",
    lambda tools: DeepSeekScanner(),
    enforced.deepseek_v3,
    deepseek.MARKS,
    deepseek.LIST_BEGIN,
)
DEEPSEEK_V31 = ToolFormat(
    "deepseek_v31",
    lambda tools: DeepSeekScanner(),
    enforced.deepseek_v31,
    deepseek.MARKS,
    deepseek.LIST_BEGIN,
)
NEMOTRON = ToolFormat(
    "nemotron",
    lambda tools: NemotronScanner(),
    enforced.nemotron,
    ("<TOOLCALL>", "</TOOLCALL>"),
    "<TOOLCALL>",
)
LLAMA3_JSON = ToolFormat(
    "llama3_json",
    lambda tools: Llama3Scanner(_names(tools)),
    enforced.llama3_json,
    (PYTHON_TAG,),
    PYTHON_TAG,
    bare=True,
)
MISTRAL_LIST = ToolFormat(
    "mistral_list", lambda tools: MistralScanner(), enforced.mistral_list, (OPENING,), OPENING
)
MISTRAL_NAMED = ToolFormat(
    "mistral_named",
    lambda tools: MistralScanner(),
    enforced.mistral_named,
    (OPENING, ARGUMENTS, CALL_ID),
    OPENING,
)
PYTHONIC = ToolFormat("pythonic", lambda tools: PythonicScanner(_names(tools)))

FORMATS = {
    each.name: each
    for each in (
        HERMES,
        QWEN_CODER,
        DEEPSEEK_V3,
        DEEPSEEK_V31,
        NEMOTRON,
        LLAMA3_JSON,
        MISTRAL_LIST,
        MISTRAL_NAMED,
        PYTHONIC,
    )
}


def find_format(name: str, template: str | None, has_token: Callable[[str], bool]) -> ToolFormat:
    """The format of the setting, or with "auto" the one that the chat template uses.

    `has_token` tells whether a special token exists. Raises StartError for an unknown name.
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
    """The format in a template; by default plain JSON, where only an object naming a tool is a
    call."""
    if deepseek.LIST_BEGIN in template:
        return DEEPSEEK_V3 if "```json" in template else DEEPSEEK_V31
    if "<function=" in template and "<parameter=" in template:
        return QWEN_CODER
    if "<TOOLCALL>" in template:
        return NEMOTRON
    if "<tool_call>" in template:
        return HERMES
    if OPENING in template or has_token(OPENING):
        return find_format("mistral", template, has_token)
    return LLAMA3_JSON
