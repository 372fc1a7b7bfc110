"""From the router's deltas to OpenAI bodies: whole answers and the chunks of a stream.

Both endpoints are one shape: a `Style` makes a choice out of text, or of an ending.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from router.errors import NoSuchRoute, RouterError, face_of
from router.openai_api import (
    ChatChoice,
    ChatLogprobs,
    ChatMessageBody,
    ChatResponse,
    CompletionChoice,
    CompletionLogprobs,
    CompletionResponse,
    ErrorBody,
    ErrorDetail,
    PromptTokensDetails,
    TokenLogprobBody,
    TopLogprobBody,
    UsageBody,
)
from router.requests import Delta, Ending, Usage
from router.tokenizer import Tokenizer
from wire.sampling import TokenLogprob

Chunk = CompletionResponse | ChatResponse
UsageField = UsageBody | None | UnsetType


class Style(Protocol):
    """One endpoint's way of saying things about one request."""

    def opening(self) -> Sequence[Chunk]:
        """Chunks before the first text."""

    def chunk(self, delta: Delta) -> Chunk | None:
        """None when there is nothing to say yet."""

    def usage_chunk(self, usage: Usage) -> Chunk:
        """The last chunk of streams that asked for it."""

    def whole(self, deltas: Sequence[Delta]) -> Chunk:
        """The answer of a request that is not streamed."""


class CompletionStyle:
    """/v1/completions."""

    def __init__(
        self, request_id: str, model: str, tokenizer: Tokenizer, *, with_usage: bool
    ) -> None:
        self._id = f"cmpl-{request_id}"
        self._model = model
        self._tokenizer = tokenizer
        self._created = int(time.time())
        self._chunk_usage: UsageField = None if with_usage else UNSET
        self._text_offset = 0

    def opening(self) -> Sequence[Chunk]:
        return ()

    def chunk(self, delta: Delta) -> Chunk | None:
        choice = self._choice(delta.text, delta.tokens, delta.logprobs, delta.ending)
        if not delta.text and delta.ending is None and choice.logprobs is None:
            return None
        return self._response([choice], self._chunk_usage)

    def usage_chunk(self, usage: Usage) -> Chunk:
        return self._response([], _usage(usage))

    def whole(self, deltas: Sequence[Delta]) -> Chunk:
        text, tokens, logprobs, ending = _joined(deltas)
        return self._response([self._choice(text, tokens, logprobs, ending)], _usage(ending.usage))

    def _response(self, choices: list[CompletionChoice], usage: UsageField) -> CompletionResponse:
        return CompletionResponse(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def _choice(
        self,
        text: str,
        tokens: Sequence[int],
        logprobs: Sequence[TokenLogprob],
        ending: Ending | None,
    ) -> CompletionChoice:
        return CompletionChoice(
            text=text,
            logprobs=self._logprobs(tokens, logprobs) if logprobs else None,
            finish_reason=_finish_reason(ending),
            stop_reason=_stop_reason(ending),
        )

    def _logprobs(
        self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> CompletionLogprobs:
        texts = [self._tokenizer.token_text(token) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._text_offset)
            self._text_offset += len(text)
        return CompletionLogprobs(
            tokens=texts,
            token_logprobs=[each.logprob for each in logprobs],
            top_logprobs=[
                {
                    self._tokenizer.token_text(token): logprob
                    for token, logprob in zip(each.top_ids, each.top_logprobs, strict=True)
                }
                for each in logprobs
            ],
            text_offset=offsets,
        )


class ChatStyle:
    """/v1/chat/completions."""

    def __init__(
        self, request_id: str, model: str, tokenizer: Tokenizer, *, with_usage: bool
    ) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._model = model
        self._tokenizer = tokenizer
        self._created = int(time.time())
        self._chunk_usage: UsageField = None if with_usage else UNSET

    def opening(self) -> Sequence[Chunk]:
        opening = ChatMessageBody(role="assistant", content="")
        return (self._chunk([ChatChoice(delta=opening)], self._chunk_usage),)

    def chunk(self, delta: Delta) -> Chunk | None:
        if not (delta.text or delta.logprobs or delta.ending):
            return None
        choice = ChatChoice(
            delta=ChatMessageBody(content=delta.text or None),
            logprobs=self._logprobs(delta.tokens, delta.logprobs) if delta.logprobs else None,
            finish_reason=_finish_reason(delta.ending),
            stop_reason=_stop_reason(delta.ending),
        )
        return self._chunk([choice], self._chunk_usage)

    def usage_chunk(self, usage: Usage) -> Chunk:
        return self._chunk([], _usage(usage))

    def whole(self, deltas: Sequence[Delta]) -> Chunk:
        text, tokens, logprobs, ending = _joined(deltas)
        choice = ChatChoice(
            message=ChatMessageBody(role="assistant", content=text),
            logprobs=self._logprobs(tokens, logprobs) if logprobs else None,
            finish_reason=_finish_reason(ending),
            stop_reason=_stop_reason(ending),
        )
        return self._response("chat.completion", [choice], _usage(ending.usage))

    def _chunk(self, choices: list[ChatChoice], usage: UsageField) -> ChatResponse:
        return self._response("chat.completion.chunk", choices, usage)

    def _response(self, kind: str, choices: list[ChatChoice], usage: UsageField) -> ChatResponse:
        return ChatResponse(
            id=self._id,
            object=kind,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
        )

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]) -> ChatLogprobs:
        return ChatLogprobs(content=[*map(self._token_logprob, tokens, logprobs)])

    def _token_logprob(self, token: int, logprob: TokenLogprob) -> TokenLogprobBody:
        tops = zip(logprob.top_ids, logprob.top_logprobs, strict=True)
        return TokenLogprobBody(
            token=self._tokenizer.token_text(token),
            logprob=logprob.logprob,
            bytes=[*self._tokenizer.token_bytes(token)],
            top_logprobs=[
                TopLogprobBody(
                    token=self._tokenizer.token_text(top),
                    logprob=value,
                    bytes=[*self._tokenizer.token_bytes(top)],
                )
                for top, value in tops
            ],
        )


def error_body(error: RouterError) -> tuple[int, ErrorBody]:
    """HTTP status and body."""
    face = face_of(error)
    status = error.status if isinstance(error, NoSuchRoute) else face.http_status
    detail = ErrorDetail(
        message=str(error), type=face.openai_type, param=error.field, code=face.openai_code
    )
    return status, ErrorBody(error=detail)


def server_sent_event(body: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _joined(
    deltas: Sequence[Delta],
) -> tuple[str, list[int], list[TokenLogprob], Ending]:
    ending = deltas[-1].ending
    assert ending is not None, "the last delta has the ending"
    text = "".join(delta.text for delta in deltas)
    tokens = [token for delta in deltas for token in delta.tokens]
    return text, tokens, [each for delta in deltas for each in delta.logprobs], ending


def _usage(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens),
    )


def _finish_reason(ending: Ending | None) -> str | None:
    return ending.finish.value if ending else None


def _stop_reason(ending: Ending | None) -> str | int | None:
    """The stop string or token that the client asked for."""
    return (ending.stop_text or ending.stop_token) if ending else None
