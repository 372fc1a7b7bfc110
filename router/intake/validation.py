"""From a client's draft to a request that can be served; errors name the field."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from router.errors import InvalidRequest
from router.intake.draft_checks import (
    check_names,
    check_rules,
    check_sampling,
    check_stops,
    check_texts,
    check_token_ids,
    check_tools,
)
from router.requests.prompts import (
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
    ToolChoice,
    ToolMode,
)
from router.requests.request import GenerateRequest, RequestDraft
from router.text.tokenizer import Tokenizer
from wire.sampling import SamplingParams, TokenRules


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and defaults of the served model and of the router's settings."""

    vocab_size: int
    max_model_len: int
    default_max_tokens: int
    longest_answer: int | None = None
    """Maximum tokens of an answer, whatever is asked for."""
    request_timeout_s: float
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    """Default targets for requests that name none."""
    max_n: int = 1
    trusts_templates: bool = False


def check_draft(draft: RequestDraft, bounds: Bounds) -> None:
    """Check everything that needs no tokens. Raises InvalidRequest."""
    check_names(draft)
    check_sampling(draft, bounds.max_n)
    check_stops(draft, bounds.vocab_size)
    check_rules(draft, bounds.vocab_size)
    check_tools(draft)
    check_texts(draft, trusts_templates=bounds.trusts_templates)
    if draft.timeout_s is not None and not draft.timeout_s > 0:
        raise InvalidRequest("the deadline has passed already", "timeout")


def tokenize(
    prompt: Prompt | None, tokenizer: Tokenizer, max_model_len: int | None = None
) -> list[int]:
    """Token ids of the prompt. Raises InvalidRequest when there is none or it is not valid text;
    and, with a `max_model_len`, for a text that is certainly longer, before it is tokenized."""
    if prompt is None:
        raise InvalidRequest("there is no prompt", "prompt")
    try:
        return _tokenize(prompt, tokenizer, max_model_len)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the prompt is no valid Unicode text: {error}", "prompt") from error


def build_request(
    draft: RequestDraft, tokens: Sequence[int], bounds: Bounds, tokenizer: Tokenizer
) -> GenerateRequest:
    """Check lengths and token ids, and build the request. Raises InvalidRequest."""
    field = "messages" if isinstance(draft.prompt, ChatPrompt) else "prompt"
    if not tokens:
        raise InvalidRequest("the prompt is empty", field)
    tokens = _truncated(tokens, draft, bounds)
    max_tokens = _max_tokens(draft, len(tokens), bounds, field)
    check_token_ids(tokens, bounds.vocab_size, field)
    return GenerateRequest(
        request_id=draft.request_id,
        prompt_tokens=tuple(tokens),
        sampling=_sampling(draft, max(1, max_tokens), _rules(draft, tokenizer)),
        prompt_only=max_tokens == 0,
        stop=draft.stop,
        timeout_s=min(draft.timeout_s or bounds.request_timeout_s, bounds.request_timeout_s),
        n=draft.n or 1,
        include_stop=draft.include_stop,
        skip_special_tokens=draft.skip_special_tokens,
        traits=draft.traits,
        ttft_target_s=draft.ttft_target_s or bounds.ttft_target_s,
        tpot_target_s=draft.tpot_target_s or bounds.tpot_target_s,
        trace_id=draft.trace_id,
        split=draft.split,
        tools=draft.tools,
        tool_choice=(draft.tool_choice or ToolChoice(ToolMode.AUTO)) if draft.tools else None,
        parallel_tool_calls=draft.parallel_tool_calls is not False,
    )


def _tokenize(prompt: Prompt, tokenizer: Tokenizer, max_model_len: int | None) -> list[int]:
    match prompt:
        case TextPrompt(text=""):
            raise InvalidRequest("the prompt is empty", "prompt")
        case TextPrompt(text=text, add_special_tokens=adds):
            _check_length(text, tokenizer, max_model_len, "prompt")
            return tokenizer.encode_text(text, add_special_tokens=adds)
        case ChatPrompt(messages=()):
            raise InvalidRequest("there are no messages", "messages")
        case ChatPrompt(add_special_tokens=adds):
            text = tokenizer.render(prompt)
            _check_length(text, tokenizer, max_model_len, "messages")
            return tokenizer.encode_text(text, add_special_tokens=adds)
        case TokenPrompt(ids=ids):
            return list(ids)


def _check_length(text: str, tokenizer: Tokenizer, max_model_len: int | None, field: str) -> None:
    """Raises InvalidRequest."""
    if max_model_len is None or len(text) <= max_model_len:
        return
    fewest = tokenizer.min_num_tokens(text)
    if fewest >= max_model_len:
        raise _too_long(f"at least {fewest}", max_model_len, field)


def _too_long(num_tokens: str, max_model_len: int, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"the prompt has {num_tokens} tokens; the model's {max_model_len} must hold the prompt and "
        "at least one more: shorten it",
        field,
    )


def _truncated(tokens: Sequence[int], draft: RequestDraft, bounds: Bounds) -> Sequence[int]:
    """The last truncate_prompt_tokens of the prompt; -1 means as many as fit."""
    wanted = draft.truncate_prompt_tokens
    if wanted is None:
        return tokens
    if wanted == -1:
        wanted = max(1, bounds.max_model_len - (draft.max_tokens or draft.min_tokens or 1))
    return tokens[-wanted:]


def _max_tokens(draft: RequestDraft, num_prompt: int, bounds: Bounds, field: str) -> int:
    room = bounds.max_model_len - num_prompt
    if room < 1:
        raise _too_long(str(num_prompt), bounds.max_model_len, field)
    min_tokens = draft.min_tokens or 0
    wanted = draft.max_tokens
    if wanted is None:
        wanted = min(max(bounds.default_max_tokens, min_tokens), room)
    if wanted > room:
        raise InvalidRequest(
            f"the prompt has {num_prompt} tokens and max_tokens is {wanted}, together "
            f"more than the model's {bounds.max_model_len}: ask for at most {room}",
            "max_tokens",
        )
    if bounds.longest_answer is not None:
        wanted = min(wanted, bounds.longest_answer)
    if min_tokens > wanted:
        raise InvalidRequest(f"min_tokens {min_tokens} is over max_tokens {wanted}", "min_tokens")
    return wanted


def _rules(draft: RequestDraft, tokenizer: Tokenizer) -> TokenRules | None:
    """Token rules, if any. Raises InvalidRequest when no token could be sampled."""
    if not (draft.logit_bias or draft.bad_words) and draft.allowed_token_ids is None:
        return None
    banned = tuple(dict.fromkeys(_spellings(draft.bad_words, tokenizer)))
    allowed = draft.allowed_token_ids
    if allowed is not None and set(allowed) <= {run[0] for run in banned if len(run) == 1}:
        raise InvalidRequest("bad_words forbid every allowed token", "bad_words")
    if allowed is not None and draft.min_tokens and set(allowed) <= set(draft.stop_token_ids):
        raise InvalidRequest(
            "every allowed token would end the answer, which min_tokens forbids", "min_tokens"
        )
    return TokenRules(draft.logit_bias, allowed, banned)


def _spellings(words: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The tokens of each word, as it begins a text, follows another, and stands within one."""
    spelled = []
    for word in words:
        for text in (word, f" {word.lstrip()}"):
            spelled.append(tokenizer.encode_text(text, add_special_tokens=False))
        spelled.append(tokenizer.encode_inside(word))
    return [tuple(ids) for ids in spelled if ids]


def _sampling(draft: RequestDraft, max_tokens: int, rules: TokenRules | None) -> SamplingParams:
    given = {
        name: getattr(draft, name)
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "min_tokens",
            "logprobs",
            "prompt_logprobs",
        )
        if getattr(draft, name) is not None
    }
    if given.get("top_k") == 0:  # all
        del given["top_k"]
    return SamplingParams(
        max_tokens=max_tokens,
        seed=secrets.randbits(63) if draft.seed is None else draft.seed,
        ignore_eos=draft.ignore_eos,
        stop_token_ids=draft.stop_token_ids,
        rules=rules,
        **given,
    )
