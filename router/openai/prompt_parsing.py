"""Prompts, messages and tools of OpenAI bodies, converted to the router's types."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.openai.request_bodies import (
    ChatBody,
    ChatBodyMessage,
    CompletionBody,
    ContentPart,
    TokenizeBody,
    ToolCallBody,
)
from router.openai.tool_choice import checked_tools
from router.requests.prompts import (
    ChatMessage,
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
    ToolCall,
)

Piece = int | str | list[int]
_CALL_KEYS = ("id", "type", "function", "name", "arguments")
_PATH = re.compile(r" - at `\$\.?(.+?)`$")


def completion_prompts(body: CompletionBody) -> list[Prompt]:
    """The prompts: one text, one list of token ids, or lists of these. Raises InvalidRequest."""
    adds = body.add_special_tokens is not False
    if body.prompt is None:
        raise InvalidRequest("there is no prompt", "prompt")
    if isinstance(body.prompt, str):
        return [TextPrompt(body.prompt, adds)]
    kinds = set(map(type, body.prompt))
    if len(kinds) != 1:
        what = "an empty list" if not kinds else "texts and token ids mixed"
        raise InvalidRequest(
            f"prompt is {what}: it must be a text, a list of texts, a list of token ids or a list "
            "of lists of token ids",
            "prompt",
        )
    if kinds == {int}:
        return [_token_prompt(body.prompt)]
    return [
        TextPrompt(piece, adds) if isinstance(piece, str) else _token_prompt([piece])
        for piece in body.prompt
    ]


def _token_prompt(ids: list[Piece]) -> TokenPrompt:
    """A prompt from token ids, or from a list with one list of them."""
    first = ids[0]
    return TokenPrompt(tuple(first if isinstance(first, list) else ids))  # type: ignore[arg-type]


def chat_prompt(
    body: ChatBody | TokenizeBody,
    add_special_tokens: bool | None,
    tools: tuple[dict[str, Any], ...] | None = None,
) -> ChatPrompt:
    """The chat with `tools`, or else with those of the body. Raises InvalidRequest."""
    if body.messages is None:
        raise InvalidRequest("there are no messages", "messages")
    continues = bool(body.continue_final_message)
    adds = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    if continues and adds:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other",
            "continue_final_message",
        )
    return ChatPrompt(
        messages=tuple(map(_chat_message, range(len(body.messages)), body.messages)),
        tools=checked_tools(body.tools or ()) if tools is None else tools,
        add_generation_prompt=adds,
        continue_final_message=continues,
        template=body.chat_template,
        template_args=_template_args(body),
        add_special_tokens=bool(add_special_tokens),
    )


def _template_args(body: ChatBody | TokenizeBody) -> dict[str, Any]:
    """The template's arguments, with `reasoning_effort` if the client sets it."""
    given = body.chat_template_kwargs or {}
    effort = body.reasoning_effort if isinstance(body, ChatBody) else None
    return given if effort is None else {"reasoning_effort": effort, **given}


def tokenize_prompt(body: TokenizeBody) -> Prompt:
    """The text or chat to tokenize. Raises InvalidRequest."""
    if body.messages is not None:
        return chat_prompt(body, body.add_special_tokens)
    if body.prompt is None:
        raise InvalidRequest("there is neither a prompt nor messages", "prompt")
    return TextPrompt(body.prompt, body.add_special_tokens is not False)


def _chat_message(index: int, message: ChatBodyMessage) -> ChatMessage:
    field = f"messages[{index}]"
    return ChatMessage(
        role=message.role,
        content=_content(message.content, f"{field}.content"),
        name=message.name,
        tool_calls=tuple(
            _tool_call(each, f"{field}.tool_calls[{number}]")
            for number, each in enumerate(message.tool_calls or ())
        ),
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning_content or message.reasoning,
    )


def _tool_call(sent: dict[str, Any], field: str) -> ToolCall:
    try:
        call = msgspec.convert(sent, ToolCallBody)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error), inner_field(error, field)) from error
    if call.type != "function":
        raise InvalidRequest(f"a tool call of type {call.type!r}", field)
    keys = tuple(dict.fromkeys([*sent, *sent["function"], *_CALL_KEYS]))
    return ToolCall(call.id, call.function.name, call.function.arguments, keys)


def inner_field(error: msgspec.ValidationError, outer: str | None = None) -> str | None:
    """The path of the member with a wrong type, within `outer`."""
    path = _PATH.search(str(error))
    if path is None:
        return outer
    return path.group(1) if outer is None else f"{outer}.{path.group(1)}"


def _content(content: str | list[ContentPart] | None, field: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise InvalidRequest(f"content of type {part.type!r}: only text is supported", field)
    return "\n".join(part.text or "" for part in content)


def json_text(value: Any) -> str:
    """The JSON text with its members in the author's order; a string is taken as JSON already."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
