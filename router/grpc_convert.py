"""Between the public protobuf messages and the router's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.requests import (
    ChatMessage,
    ChatPrompt,
    Delta,
    Ending,
    Prompt,
    RequestDraft,
    TextPrompt,
    TokenPrompt,
    draw_request_id,
)
from wire import inference_pb2 as pb
from wire.messages import FinishReason
from wire.sampling import TokenLogprob

FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_OPTIONAL_FIELDS = ("model", "max_tokens", "min_tokens", "logprobs", "cache_salt")


def draft_from(request: pb.GenerateRequest, timeout_s: float | None) -> RequestDraft:
    """What the client said; fields that are not present stay None."""
    given: dict[str, Any] = {
        field.name: value for field, value in request.sampling.ListFields()
    }  # with explicit presence, listed fields are those that are present
    given |= {
        field.name: value for field, value in request.ListFields() if field.name in _OPTIONAL_FIELDS
    }
    return RequestDraft(
        request_id=request.request_id if request.HasField("request_id") else draw_request_id(),
        prompt=prompt_from(request),
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        timeout_s=timeout_s,
        **given,
    )


def prompt_from(request: pb.GenerateRequest | pb.TokenizeRequest) -> Prompt | None:
    """None when the oneof is not set."""
    match request.WhichOneof("prompt"):
        case "text":
            return TextPrompt(request.text)
        case "chat":
            messages = (ChatMessage(each.role, each.content) for each in request.chat.messages)
            return ChatPrompt(tuple(messages))
        case "token_ids":
            assert isinstance(request, pb.GenerateRequest)
            return TokenPrompt(tuple(request.token_ids.ids))
    return None


def response_from(request_id: str, delta: Delta) -> pb.GenerateResponse:
    response = pb.GenerateResponse(request_id=request_id, text=delta.text, token_ids=delta.tokens)
    if delta.logprobs:
        response.logprobs.extend(_logprobs(delta.tokens, delta.logprobs))
    if delta.ending is not None:
        _add_ending(response, delta.ending)
    return response


def _logprobs(tokens: Sequence[int], logprobs: Sequence[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(
            token_id=token,
            logprob=each.logprob,
            top=[
                pb.TopLogprob(token_id=top_id, logprob=top_logprob)
                for top_id, top_logprob in zip(each.top_ids, each.top_logprobs, strict=True)
            ],
        )
        for token, each in zip(tokens, logprobs, strict=True)
    ]


def _add_ending(response: pb.GenerateResponse, ending: Ending) -> None:
    response.finish_reason = FINISH[ending.finish]
    if ending.stop_text is not None:
        response.matched_stop.text = ending.stop_text
    elif ending.stop_token is not None:
        response.matched_stop.token_id = ending.stop_token
    response.usage.prompt_tokens = ending.usage.prompt_tokens
    response.usage.completion_tokens = ending.usage.completion_tokens
    response.usage.cached_tokens = ending.usage.cached_tokens
    response.served_by.prefill_worker_id = ending.prefill_worker_id
    response.served_by.decode_worker_id = ending.decode_worker_id
    response.served_by.attempts = ending.attempts
    _add_timing(response.timing, ending)


def _add_timing(target: pb.Timing, ending: Ending) -> None:
    target.SetInParent()
    timing = ending.timing
    for name in ("queue_s", "prefill_s", "decode_s", "ttft_s", "tpot_s"):
        value = getattr(timing, name)
        if value is not None:
            setattr(target, name, value)
    if timing.transfer is not None:
        for field in target.transfer.DESCRIPTOR.fields:
            setattr(target.transfer, field.name, getattr(timing.transfer, field.name))
