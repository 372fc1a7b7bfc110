"""From the router's deltas to the public protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence

from router.requests.prompts import Prompt
from router.requests.request import Delta, Ending, ToolCallDelta
from router.text.tokenizer import Tokenizer
from wire import inference_pb2 as pb
from wire.messages import FinishReason
from wire.sampling import TokenLogprob

FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


class GrpcResponses:
    """The messages of one call, as its request wants them."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        request_id: str,
        prompt: Prompt | None,
        tokenizer: Tokenizer,
    ) -> None:
        self._request = request
        self._request_id = request_id
        self._prompt = prompt
        self._tokenizer = tokenizer

    def response(self, delta: Delta) -> pb.GenerateResponse:
        response = pb.GenerateResponse(
            request_id=self._request_id, text=delta.text, token_ids=delta.tokens, index=delta.index
        )
        if delta.prompt_tokens is not None:
            self._add_prompt(response, delta.prompt_tokens)
        if delta.prompt_logprobs:
            tokens = (delta.prompt_tokens or ())[1:]
            response.prompt_logprobs.extend(_logprobs(tokens, delta.prompt_logprobs))
        if delta.logprobs:
            response.logprobs.extend(_logprobs(delta.tokens, delta.logprobs))
        if delta.reasoning:
            response.reasoning = delta.reasoning
        if delta.tool_calls:
            response.tool_calls.extend(map(_tool_call, delta.tool_calls))
        if delta.ending is not None:
            _add_ending(response, delta.ending)
        return response

    def _add_prompt(self, response: pb.GenerateResponse, tokens: tuple[int, ...]) -> None:
        if self._request.return_prompt_token_ids:
            response.prompt_token_ids.extend(tokens)
        if self._request.echo:
            response.text = self._tokenizer.echo(self._prompt, tokens) + response.text


def _tool_call(call: ToolCallDelta) -> pb.ToolCallDelta:
    return pb.ToolCallDelta(
        index=call.index, id=call.id, name=call.name, arguments_json=call.arguments
    )


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
    if ending.tool_calls and ending.finish is FinishReason.STOP:
        response.finish_reason = pb.FINISH_REASON_TOOL_CALLS
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
