"""From an OpenAI request body to the router's draft; what cannot be honoured is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from router.errors import InvalidRequest
from router.openai_api import ChatBody, ChatBodyMessage, CommonBody, CompletionBody
from router.requests import (
    ChatMessage,
    ChatPrompt,
    Prompt,
    RequestDraft,
    TextPrompt,
    TokenPrompt,
    draw_request_id,
)

COMPLETION_MAX_TOKENS = 16
"""What the OpenAI API makes of an absent max_tokens on /v1/completions."""

Body = TypeVar("Body", bound=CommonBody)
_PATH = re.compile(r" - at `\$\.?(.+?)`$")


def parse_body(content: bytes, kind: type[Body]) -> Body:
    """Raises InvalidRequest that names the field of a wrong type."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        path = _PATH.search(str(error))
        raise InvalidRequest(str(error), path.group(1) if path else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is no valid JSON in UTF-8: {error}") from error


def completion_draft(body: CompletionBody, request_id: str | None = None) -> RequestDraft:
    """Raises InvalidRequest."""
    _refuse({"echo": body.echo, "suffix": body.suffix, "logit_bias": body.logit_bias})
    if body.best_of not in (None, 1):
        raise InvalidRequest("best_of must be 1: this release makes one answer", "best_of")
    max_tokens = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return RequestDraft(
        prompt=_completion_prompt(body.prompt),
        max_tokens=max_tokens,
        logprobs=body.logprobs,
        **_common(body, request_id),
    )


def chat_draft(body: ChatBody, request_id: str | None = None) -> RequestDraft:
    """Raises InvalidRequest."""
    _refuse({"tools": body.tools, "logit_bias": body.logit_bias})
    if body.response_format is not None and body.response_format.type != "text":
        raise InvalidRequest("response_format must be text in this release", "response_format")
    if body.messages is None:
        raise InvalidRequest("there are no messages", "messages")
    newer = body.max_completion_tokens
    return RequestDraft(
        prompt=ChatPrompt(tuple(map(_chat_message, range(len(body.messages)), body.messages))),
        max_tokens=body.max_tokens if newer is None else newer,
        logprobs=_chat_logprobs(body),
        **_common(body, request_id),
    )


def _common(body: CommonBody, request_id: str | None) -> dict[str, Any]:
    same = (
        "model",
        "min_tokens",
        "temperature",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "n",
        "cache_salt",
    )
    return {name: getattr(body, name) for name in same} | {
        "request_id": body.request_id or request_id or draw_request_id(),
        "top_k": None if body.top_k in (-1, 0) else body.top_k,  # both mean "all" to engines
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "ignore_eos": bool(body.ignore_eos),
    }


def _refuse(unsupported: Mapping[str, object]) -> None:
    for field, value in unsupported.items():
        if value:
            raise InvalidRequest(f"{field} is not supported by this release", field)


def _completion_prompt(prompt: str | list[int | str | list[int]] | None) -> Prompt | None:
    if prompt is None or isinstance(prompt, str):
        return None if prompt is None else TextPrompt(prompt)
    if all(isinstance(each, int) for each in prompt):
        return TokenPrompt(tuple(each for each in prompt if isinstance(each, int)))
    if len(prompt) != 1:
        raise InvalidRequest(
            f"{len(prompt)} prompts: this release takes one per request, a text or a list of ids",
            "prompt",
        )
    (only,) = prompt
    return TextPrompt(only) if isinstance(only, str) else _completion_prompt([*_ids(only)])


def _ids(prompt: int | list[int]) -> Sequence[int]:
    return [prompt] if isinstance(prompt, int) else prompt


def _chat_message(index: int, message: ChatBodyMessage) -> ChatMessage:
    field = f"messages[{index}]"
    if message.tool_calls:
        raise InvalidRequest("tool calls are not supported by this release", f"{field}.tool_calls")
    if message.content is None:
        return ChatMessage(message.role, "")
    if isinstance(message.content, str):
        return ChatMessage(message.role, message.content)
    texts = []
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise InvalidRequest(
                f"content of type {part.type!r}: this release reads text only", f"{field}.content"
            )
        texts.append(part.text)
    return ChatMessage(message.role, "\n".join(texts))


def _chat_logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    return None
