"""Prompts: text, a chat or token ids; the tools that a chat may call, and constraints."""

from __future__ import annotations

import enum
import sys
from typing import Any

import msgspec


class TextPrompt(msgspec.Struct, frozen=True):
    text: str
    add_special_tokens: bool = True
    """With the tokens (a beginning of sequence) that the tokenizer itself adds."""


class TokenPrompt(msgspec.Struct, frozen=True):
    ids: tuple[int, ...]


class ToolCall(msgspec.Struct, frozen=True):
    """A function that the assistant called; `arguments` are JSON text, as the model wrote it."""

    id: str | None
    name: str
    arguments: str
    keys: tuple[str, ...] = ("id", "type", "function", "name", "arguments")
    """Names of the members of the call and of its function, in the order that templates show."""


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True):
    """`tools` are what the template shows to the model, in OpenAI's shape."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[dict[str, Any], ...] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """The answer continues the last message instead of beginning one of its own."""
    template: str | None = None
    """A chat template in place of the model's; only where the operator allows that."""
    template_args: dict[str, Any] = msgspec.field(default_factory=dict)
    add_special_tokens: bool = False


Prompt = TextPrompt | ChatPrompt | TokenPrompt


class ToolMode(enum.Enum):
    NONE = "none"  # no tool may be called
    AUTO = "auto"  # the model decides
    REQUIRED = "required"  # one at least
    NAMED = "named"  # this one


class ToolChoice(msgspec.Struct, frozen=True):
    mode: ToolMode
    name: str | None = None
    """Name of the one tool when the mode is NAMED."""


class ConstraintKind(enum.Enum):
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"
    STRUCTURAL_TAG = "structural_tag"


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """The form that the answer must have. `text` is a JSON schema, a regular expression, a grammar,
    a JSON list of choices or a structural tag's JSON; empty for any JSON object."""

    kind: ConstraintKind
    text: str = ""
    field: str
    """The client's field that asked for it."""
    lenient: bool = False
    """Parts of a schema that cannot be enforced are ignored, not refused."""


MESSAGE_CHARS = 16
"""Minimum size of a message: a template takes time for each."""


def num_chars(prompt: Prompt | None) -> int:
    """Size of what is to be rendered and tokenized; unbounded for a client's own template."""
    match prompt:
        case TextPrompt(text=text):
            return len(text)
        case ChatPrompt(template=None):
            given = msgspec.json.encode((prompt.tools, prompt.template_args))
            return len(given) + sum(map(_num_message_chars, prompt.messages))
        case ChatPrompt():
            return sys.maxsize
    return 0


def _num_message_chars(message: ChatMessage) -> int:
    said = (message.role, message.content, message.name, message.reasoning)
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return MESSAGE_CHARS + calls + sum(len(text) for text in said if text)
