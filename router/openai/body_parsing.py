"""OpenAI request bodies to request drafts; unsupported fields are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from router.errors import InvalidRequest
from router.intake.draft_checks import split_asked
from router.intake.traits import ASKED_TRAITS, asked_traits
from router.openai.constraints import constraint_of
from router.openai.headers import RequestHead
from router.openai.prompt_parsing import chat_prompt, completion_prompts, inner_field
from router.openai.request_bodies import ChatBody, CommonBody, CompletionBody
from router.openai.tool_choice import chosen_tools
from router.requests.prompts import ToolMode
from router.requests.request import RequestDraft

COMPLETION_MAX_TOKENS = 16
"""Default of max_tokens in OpenAI's /v1/completions."""

_COPIED_FIELDS = (
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
    "truncate_prompt_tokens",
)
Body = TypeVar("Body", bound=msgspec.Struct)


def parse_body(content: bytes, kind: type[Body]) -> Body:
    """Decode a body. Raises InvalidRequest, which names a field of a wrong type."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error), inner_field(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON in UTF-8: {error}") from error


def completion_drafts(body: CompletionBody, head: RequestHead) -> list[RequestDraft]:
    """One draft for each prompt. Raises InvalidRequest."""
    _reject_unsupported({"suffix": body.suffix})
    if body.best_of not in (None, body.n or 1):
        raise InvalidRequest("best_of must equal n: all generated answers are returned", "best_of")
    given = _max_tokens(body)
    common = _common(body, head) | {
        "max_tokens": COMPLETION_MAX_TOKENS if given is None else given,
        "logprobs": body.logprobs,
        "prompt_logprobs": _prompt_logprobs(body, body.logprobs if body.echo else None),
        "tells_prompt": bool(body.echo) or body.prompt_logprobs is not None,
    }
    return [RequestDraft(prompt=prompt, **common) for prompt in completion_prompts(body)]


def chat_draft(body: ChatBody, head: RequestHead) -> RequestDraft:
    """The draft of a chat. Raises InvalidRequest."""
    _reject_unsupported({"functions": body.functions})
    tools, choice = chosen_tools(body.tools or (), body.tool_choice)
    # A model that must not call tools does not see them.
    shows_tools = choice is None or choice.mode is not ToolMode.NONE
    return RequestDraft(
        prompt=chat_prompt(body, body.add_special_tokens, tools if shows_tools else ()),
        max_tokens=_max_tokens(body),
        logprobs=_chat_logprobs(body),
        prompt_logprobs=_prompt_logprobs(body, None),
        tells_prompt=body.prompt_logprobs is not None,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls,
        **_common(body, head),
    )


def _common(body: CommonBody, head: RequestHead) -> dict[str, Any]:
    allowed = body.allowed_token_ids
    said = {name: value for name in ASKED_TRAITS if (value := getattr(body, name)) is not None}
    return {name: getattr(body, name) for name in _COPIED_FIELDS} | {
        "request_id": body.request_id or head.request_id,
        "trace_id": head.trace_id,
        "split": split_asked(head.split),
        "top_k": 0 if body.top_k == -1 else body.top_k,  # engines take both as "all"
        "logit_bias": _logit_bias(body.logit_bias or {}),
        "allowed_token_ids": None if allowed is None else tuple(allowed),
        "bad_words": tuple(body.bad_words or ()),
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "include_stop": bool(body.include_stop_str_in_output),
        "ignore_eos": bool(body.ignore_eos),
        "skip_special_tokens": body.skip_special_tokens is not False,
        "constraint": constraint_of(body),
        "traits": asked_traits(said),
        "has_priority": body.priority is not None,
        "ttft_target_s": body.slo.ttft_s if body.slo else None,
        "tpot_target_s": body.slo.tpot_s if body.slo else None,
    }


def _prompt_logprobs(body: CommonBody, echoed: int | None) -> int | None:
    """The larger of the two requested numbers of alternatives."""
    if body.prompt_logprobs is None or body.prompt_logprobs < 0:
        return echoed if body.prompt_logprobs is None else body.prompt_logprobs
    if body.stream:
        text = "prompt_logprobs are not supported for streams: use echo, or no stream"
        raise InvalidRequest(text, "prompt_logprobs")
    return max(body.prompt_logprobs, echoed or 0)


def _max_tokens(body: CommonBody) -> int | None:
    newer = body.max_completion_tokens
    return body.max_tokens if newer is None else newer


def _logit_bias(bias: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    try:
        return tuple((int(token), value) for token, value in bias.items())
    except ValueError as error:
        text = f"the keys of logit_bias must be token ids: {error}"
        raise InvalidRequest(text, "logit_bias") from error


def _reject_unsupported(unsupported: Mapping[str, object]) -> None:
    for field, value in unsupported.items():
        if value:
            raise InvalidRequest(f"{field} is not supported by this release", field)


def _chat_logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    return None
