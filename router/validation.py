"""From what a client asked for to a request that can be served; what cannot, is named.

Every check compares in a way that NaN fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from router.errors import InvalidRequest, ModelNotFound
from router.requests import (
    ChatPrompt,
    GenerateRequest,
    Prompt,
    RequestDraft,
    TextPrompt,
    TokenPrompt,
)
from router.tokenizer import Tokenizer
from wire.sampling import SamplingParams

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGPROBS = 20
MAX_SALT_CHARS = 1024
MAX_REQUEST_ID_CHARS = 128


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the served model and the router's settings allow."""

    model: str
    vocab_size: int
    max_model_len: int
    default_max_tokens: int
    request_timeout_s: float


def check_model(wanted: str | None, served: str) -> None:
    """Raises ModelNotFound."""
    if wanted is not None and wanted != served:
        raise ModelNotFound(f"model {wanted!r} is not served here, {served!r} is", "model")


def check_draft(draft: RequestDraft, bounds: Bounds) -> None:
    """Everything that can be said without tokenizing. Raises InvalidRequest, ModelNotFound."""
    check_model(draft.model, bounds.model)
    if draft.n is not None and draft.n != 1:
        raise InvalidRequest(f"n is {draft.n}: this release makes one answer per request", "n")
    _check_name(draft.request_id, "request_id", MAX_REQUEST_ID_CHARS)
    if draft.cache_salt is not None:
        _check_name(draft.cache_salt, "cache_salt", MAX_SALT_CHARS)
    _check_sampling(draft)
    _check_stops(draft, bounds)
    if draft.timeout_s is not None and not draft.timeout_s > 0:
        raise InvalidRequest("the deadline has passed already", "timeout")


def tokenize(prompt: Prompt | None, tokenizer: Tokenizer) -> list[int]:
    """Raises InvalidRequest when there is no prompt, or it is no text."""
    if prompt is None:
        raise InvalidRequest("there is no prompt", "prompt")
    try:
        return _tokenize(prompt, tokenizer)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the prompt is no valid Unicode text: {error}", "prompt") from error


def build_request(draft: RequestDraft, tokens: Sequence[int], bounds: Bounds) -> GenerateRequest:
    """Lengths and token ids, known after tokenizing. Raises InvalidRequest."""
    field = "messages" if isinstance(draft.prompt, ChatPrompt) else "prompt"
    if not tokens:
        raise InvalidRequest("the prompt is empty", field)
    check_token_ids(tokens, bounds.vocab_size, field)
    max_tokens = _max_tokens(draft, len(tokens), bounds, field)
    return GenerateRequest(
        request_id=draft.request_id,
        prompt_tokens=tuple(tokens),
        sampling=_sampling(draft, max_tokens),
        stop=draft.stop,
        cache_salt=draft.cache_salt.encode() if draft.cache_salt else b"",
        timeout_s=min(draft.timeout_s or bounds.request_timeout_s, bounds.request_timeout_s),
    )


def _tokenize(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    match prompt:
        case TextPrompt(text=""):
            raise InvalidRequest("the prompt is empty", "prompt")
        case TextPrompt(text=text):
            return tokenizer.encode_text(text)
        case ChatPrompt(messages=()):
            raise InvalidRequest("there are no messages", "messages")
        case ChatPrompt(messages=messages):
            return tokenizer.encode_chat([msgspec.structs.asdict(message) for message in messages])
        case TokenPrompt(ids=ids):
            return list(ids)


def _max_tokens(draft: RequestDraft, num_prompt: int, bounds: Bounds, field: str) -> int:
    room = bounds.max_model_len - num_prompt
    if room < 1:
        raise InvalidRequest(
            f"the prompt has {num_prompt} tokens; the model's {bounds.max_model_len} must hold "
            "the prompt and at least one more: shorten it",
            field,
        )
    min_tokens = draft.min_tokens or 0
    wanted = draft.max_tokens or min(max(bounds.default_max_tokens, min_tokens), room)
    if wanted > room:
        raise InvalidRequest(
            f"the prompt has {num_prompt} tokens and max_tokens is {wanted}, together "
            f"more than the model's {bounds.max_model_len}: ask for at most {room}",
            "max_tokens",
        )
    if min_tokens > wanted:
        raise InvalidRequest(f"min_tokens {min_tokens} is over max_tokens {wanted}", "min_tokens")
    return wanted


def _check_sampling(draft: RequestDraft) -> None:
    _check_range(draft.max_tokens, "max_tokens", 1, None)
    _check_range(draft.min_tokens, "min_tokens", 0, None)
    _check_range(draft.temperature, "temperature", 0, 2)
    _check_range(draft.top_p, "top_p", 0, 1, open_low=True)
    _check_range(draft.top_k, "top_k", 1, 2**31)
    _check_range(draft.min_p, "min_p", 0, 1)
    _check_range(draft.repetition_penalty, "repetition_penalty", 0, 10, open_low=True)
    _check_range(draft.presence_penalty, "presence_penalty", -2, 2)
    _check_range(draft.frequency_penalty, "frequency_penalty", -2, 2)
    _check_range(draft.seed, "seed", 0, 2**63 - 1)
    _check_range(draft.logprobs, "logprobs", 0, MAX_LOGPROBS)


def _check_range(
    value: float | None, field: str, low: float, high: float | None, *, open_low: bool = False
) -> None:
    if value is None:
        return
    above = value > low if open_low else value >= low
    if above and (high is None or value <= high):
        return
    least = f"over {low}" if open_low else f"at least {low}"
    most = "" if high is None else f" and at most {high}"
    raise InvalidRequest(f"{field} is {value}: it must be {least}{most}", field)


def _check_stops(draft: RequestDraft, bounds: Bounds) -> None:
    if len(draft.stop) > MAX_STOPS:
        raise InvalidRequest(f"{len(draft.stop)} stops: at most {MAX_STOPS} are allowed", "stop")
    for stop in draft.stop:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InvalidRequest(
                f"a stop of {len(stop)} characters: 1 to {MAX_STOP_CHARS} are allowed", "stop"
            )
    if len(draft.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"{len(draft.stop_token_ids)} stop tokens: at most {MAX_STOP_TOKEN_IDS} are allowed",
            "stop_token_ids",
        )
    check_token_ids(draft.stop_token_ids, bounds.vocab_size, "stop_token_ids")


def check_token_ids(ids: Sequence[int], vocab_size: int, field: str) -> None:
    """Raises InvalidRequest that names the first wrong id."""
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(index for index in ids if not 0 <= index < vocab_size)
        raise InvalidRequest(f"token id {wrong}: the model has ids 0 to {vocab_size - 1}", field)


def _check_name(name: str, field: str, limit: int) -> None:
    if not (1 <= len(name) <= limit and name.isprintable()):
        raise InvalidRequest(f"{field} must be 1 to {limit} printable characters", field)


def _sampling(draft: RequestDraft, max_tokens: int) -> SamplingParams:
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
        )
        if getattr(draft, name) is not None
    }
    return SamplingParams(
        max_tokens=max_tokens,
        seed=secrets.randbits(63) if draft.seed is None else draft.seed,
        ignore_eos=draft.ignore_eos,
        stop_token_ids=draft.stop_token_ids,
        **given,
    )
