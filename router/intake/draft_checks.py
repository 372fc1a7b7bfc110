"""Checks of a draft, field by field; errors name the field.

Every check compares in a way that NaN fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.placing.placement_request import Split
from router.requests.prompts import ChatPrompt, ToolMode
from router.requests.request import RequestDraft

SPLIT_HEADER = "x-tandem-split"
"""For tests and measurements: whether prompt and answer are computed on different workers."""
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGPROBS = 20
MAX_REQUEST_ID_CHARS = 128
MAX_BIASED_TOKENS = 1024
MAX_ALLOWED_TOKENS = 1024
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARS = 256
MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 * 1024
MAX_CONSTRAINT_CHARS = 256 * 1024
MAX_TEMPLATE_CHARS = 256 * 1024
MAX_TARGET_S = 3600.0


def split_asked(said: str | None) -> Split | None:
    """The value of the header; None without it. Raises InvalidRequest."""
    try:
        return None if said is None else Split(said)
    except ValueError as error:
        known = ", ".join(each.value for each in Split)
        text = f"{SPLIT_HEADER} is {said!r}, must be one of {known}"
        raise InvalidRequest(text, SPLIT_HEADER) from error


def check_names(draft: RequestDraft) -> None:
    """Raises InvalidRequest."""
    _check_name(draft.request_id, "request_id", MAX_REQUEST_ID_CHARS)


def check_sampling(draft: RequestDraft, max_n: int) -> None:
    """Raises InvalidRequest."""
    _check_range(draft.n, "n", 1, max_n)
    _check_range(draft.max_tokens, "max_tokens", 0 if draft.tells_prompt else 1, None)
    _check_range(draft.min_tokens, "min_tokens", 0, None)
    _check_range(draft.temperature, "temperature", 0, 2)
    _check_range(draft.top_p, "top_p", 0, 1, open_low=True)
    _check_range(draft.top_k, "top_k", 0, 2**31)
    _check_range(draft.min_p, "min_p", 0, 1)
    _check_range(draft.repetition_penalty, "repetition_penalty", 0, 10, open_low=True)
    _check_range(draft.presence_penalty, "presence_penalty", -2, 2)
    _check_range(draft.frequency_penalty, "frequency_penalty", -2, 2)
    _check_range(draft.seed, "seed", -(2**63), 2**63 - 1)
    _check_range(draft.logprobs, "logprobs", 0, MAX_LOGPROBS)
    _check_range(draft.prompt_logprobs, "prompt_logprobs", 0, MAX_LOGPROBS)
    _check_range(draft.ttft_target_s, "slo.ttft_s", 0, MAX_TARGET_S, open_low=True)
    _check_range(draft.tpot_target_s, "slo.tpot_s", 0, MAX_TARGET_S, open_low=True)
    if draft.truncate_prompt_tokens != -1:
        _check_range(draft.truncate_prompt_tokens, "truncate_prompt_tokens", 1, None)


def check_stops(draft: RequestDraft, vocab_size: int) -> None:
    """Raises InvalidRequest."""
    _check_texts(draft.stop, "stop", MAX_STOPS, MAX_STOP_CHARS)
    _check_count(draft.stop_token_ids, "stop_token_ids", MAX_STOP_TOKEN_IDS)
    check_token_ids(draft.stop_token_ids, vocab_size, "stop_token_ids")


def check_rules(draft: RequestDraft, vocab_size: int) -> None:
    """Raises InvalidRequest."""
    _check_count(draft.logit_bias, "logit_bias", MAX_BIASED_TOKENS)
    check_token_ids([token for token, _ in draft.logit_bias], vocab_size, "logit_bias")
    for token, value in draft.logit_bias:
        _check_range(value, "logit_bias", -100, 100, of=f" of token {token}")
    _check_texts(draft.bad_words, "bad_words", MAX_BAD_WORDS, MAX_BAD_WORD_CHARS)
    if draft.allowed_token_ids is not None:
        _check_count(draft.allowed_token_ids, "allowed_token_ids", MAX_ALLOWED_TOKENS)
        check_token_ids(draft.allowed_token_ids, vocab_size, "allowed_token_ids")
        if not draft.allowed_token_ids:
            raise InvalidRequest("no token is allowed at all", "allowed_token_ids")


def check_tools(draft: RequestDraft) -> None:
    """Raises InvalidRequest."""
    _check_count(draft.tools, "tools", MAX_TOOLS)
    _check_bytes(draft.tools, "tools", MAX_TOOLS_BYTES)
    choice = draft.tool_choice
    if choice is None or choice.mode is ToolMode.NONE:
        return
    if not draft.tools:
        raise InvalidRequest("tool_choice is given, but there are no tools", "tool_choice")
    names = [tool["function"]["name"] for tool in draft.tools]
    if choice.mode is ToolMode.NAMED and choice.name not in names:
        raise InvalidRequest(
            f"tool_choice names {choice.name!r}, the tools are {', '.join(names)}", "tool_choice"
        )


def check_texts(draft: RequestDraft, *, trusts_templates: bool) -> None:
    """Check the sizes of what is going to be parsed. Raises InvalidRequest."""
    if draft.constraint is not None and len(draft.constraint.text) > MAX_CONSTRAINT_CHARS:
        raise InvalidRequest(
            f"{len(draft.constraint.text)} characters: at most {MAX_CONSTRAINT_CHARS} are allowed",
            draft.constraint.field,
        )
    if isinstance(draft.prompt, ChatPrompt):
        check_template(draft.prompt, trusts_templates=trusts_templates)


def check_template(prompt: ChatPrompt, *, trusts_templates: bool) -> None:
    """Raises InvalidRequest."""
    _check_bytes(prompt.template_args, "chat_template_kwargs", MAX_TEMPLATE_CHARS)
    if prompt.template is None:
        return
    if not trusts_templates:
        raise InvalidRequest(
            "a chat template in a request is not allowed here: the operator can allow it with "
            "router.trust_request_templates",
            "chat_template",
        )
    if len(prompt.template) > MAX_TEMPLATE_CHARS:
        raise InvalidRequest(
            f"a template of {len(prompt.template)} characters: at most {MAX_TEMPLATE_CHARS} are "
            "allowed",
            "chat_template",
        )


def check_token_ids(ids: Sequence[int], vocab_size: int, field: str) -> None:
    """Raises InvalidRequest that names the first wrong id."""
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(index for index in ids if not 0 <= index < vocab_size)
        raise InvalidRequest(f"token id {wrong}: the model has ids 0 to {vocab_size - 1}", field)


def _check_range(
    value: float | None,
    field: str,
    low: float,
    high: float | None,
    *,
    open_low: bool = False,
    of: str = "",
) -> None:
    if value is None:
        return
    above = value > low if open_low else value >= low
    if above and (high is None or value <= high):
        return
    least = f"over {low}" if open_low else f"at least {low}"
    most = "" if high is None else f" and at most {high}"
    raise InvalidRequest(f"{field}{of} is {value}: it must be {least}{most}", field)


def _check_count(values: Sequence[Any], field: str, most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(f"{field} has {len(values)} entries: {most} are allowed", field)


def _check_texts(texts: Sequence[str], field: str, most: int, most_chars: int) -> None:
    _check_count(texts, field, most)
    for text in texts:
        if not 1 <= len(text) <= most_chars:
            raise InvalidRequest(
                f"{field} has one of {len(text)} characters: 1 to {most_chars} are allowed", field
            )


def _check_bytes(value: Any, field: str, most: int) -> None:
    if value and len(msgspec.json.encode(value)) > most:
        raise InvalidRequest(f"{field} has more than {most} bytes of JSON", field)


def _check_name(name: str, field: str, limit: int) -> None:
    if not (1 <= len(name) <= limit and name.isprintable()):
        raise InvalidRequest(f"{field} must be 1 to {limit} printable characters", field)
