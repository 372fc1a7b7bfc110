"""Deltas to OpenAI response bodies: the common part of both endpoints.

Nearly every chunk contains text alone, so all of its event but the text is encoded once per choice.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from router.errors import NoSuchRoute, RouterError, mapping_of
from router.openai.complete_answer import CompleteAnswer, UsageTotal, joined
from router.openai.response_bodies import (
    ChatResponse,
    CompletionResponse,
    ErrorBody,
    ErrorDetail,
    UsageBody,
)
from router.requests.prompts import Prompt
from router.requests.request import Delta, Ending
from router.text.tokenizer import Tokenizer
from wire.messages import FinishReason

Chunk = CompletionResponse | ChatResponse
UsageField = UsageBody | None | UnsetType
DONE = b"data: [DONE]\n\n"


class ResponseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A client's options for the response."""

    usage: bool = False
    """Whether a stream ends with a chunk of usage."""
    running_usage: bool = False
    """Whether every chunk has the usage so far."""
    token_ids: bool = False
    stop_token_ids: tuple[int, ...] = ()
    """Stop tokens to report as `stop_reason`; the model's own end token is not reported."""
    skip_special_tokens: bool = True
    logprobs: bool = False
    """Whether an echoed prompt has log-probabilities, too."""
    prompt_logprobs: bool = False
    """Whether complete answers have the prompt's log-probabilities in a field of their own."""
    echo: bool = False
    prompts: tuple[Prompt, ...] = ()
    """The prompts to echo, each for `n` answers."""
    n: int = 1

    def echo_of(self, index: int, tokens: Sequence[int], tokenizer: Tokenizer) -> str:
        """The prompt's text; empty without `echo`."""
        if not self.echo:
            return ""
        return tokenizer.echo(self.prompts[index // self.n], tokens)


class ResponseWriter(abc.ABC):
    """Writes the responses to one request, for one endpoint."""

    id_prefix: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(
        self, request_id: str, model: str, tokenizer: Tokenizer, options: ResponseOptions
    ) -> None:
        self._id = f"{self.id_prefix}{request_id}"
        self._model = model
        self._created = int(time.time())
        self._total = UsageTotal()
        self._tokenizer = tokenizer
        self._options = options
        self._plain: dict[int, tuple[bytes, bytes]] = {}

    @abc.abstractmethod
    def opening(self, delta: Delta, usage: UsageField) -> Chunk | None:
        """A chunk before an answer's first one, or None."""

    @abc.abstractmethod
    def text_chunk_parts(self, index: int) -> tuple[str, str]:
        """JSON of a choice that contains text alone: the parts before and after the text."""

    @abc.abstractmethod
    def chunk(self, delta: Delta, usage: UsageField) -> Chunk:
        """The chunk of any delta."""

    @abc.abstractmethod
    def usage_chunk(self, usage: UsageBody) -> Chunk:
        """The last chunk of a stream with usage."""

    @abc.abstractmethod
    def whole(self, answers: Sequence[CompleteAnswer], usage: UsageBody) -> Chunk:
        """The body of a response that is not streamed."""

    def events(self, delta: Delta) -> bytes:
        """Server-sent events for this delta; empty if it has nothing to send yet."""
        begun = b"" if delta.prompt_tokens is None else b"".join(self._opening_events(delta))
        if self._is_plain(delta):
            if not delta.text:
                return begun
            before, after = self._plain.get(delta.index) or self._make_plain(delta.index)
            return b"".join((begun, before, msgspec.json.encode(delta.text), after))
        usage = self._chunk_usage(delta)
        if _has_content(delta) or self._options.token_ids:
            return begun + server_sent_event(self.chunk(delta, usage))
        return begun

    def last_events(self) -> Iterator[bytes]:
        """The events after all answers are complete."""
        if self._options.usage:
            yield server_sent_event(self.usage_chunk(self._total.body()))
        yield DONE

    def whole_body(self, deltas: Sequence[Delta]) -> Chunk:
        """The body of a response that is not streamed."""
        answers = joined(deltas)
        for answer in answers:
            self._total.add(answer.ending.usage)
        return self.whole(answers, self._total.body())

    def stop_reason(self, ending: Ending | None) -> str | int | None:
        """The stop string or token that ended the answer, if the client requested it."""
        if ending is None:
            return None
        wanted = ending.stop_token in self._options.stop_token_ids
        return ending.stop_text or (ending.stop_token if wanted else None)

    def _opening_events(self, delta: Delta) -> Iterator[bytes]:
        running = self._total.begin(delta.index, len(delta.prompt_tokens or ()))
        silent = None if self._options.usage else UNSET
        opening = self.opening(delta, running if self._options.running_usage else silent)
        if opening is not None:
            yield server_sent_event(opening)

    def _chunk_usage(self, delta: Delta) -> UsageField:
        if delta.ending is not None:
            self._total.add(delta.ending.usage)
        if self._options.running_usage:
            return self._total.running(delta.index, len(delta.tokens))
        return None if self._options.usage else UNSET

    def _is_plain(self, delta: Delta) -> bool:
        options = self._options
        extras = delta.ending or delta.logprobs or delta.tool_calls or delta.reasoning
        return not (extras or options.token_ids or options.running_usage)

    def _make_plain(self, index: int) -> tuple[bytes, bytes]:
        given = {
            "id": self._id,
            "object": self.chunk_object,
            "created": self._created,
            "model": self._model,
        }
        before, after = self.text_chunk_parts(index)
        start = "data: " + msgspec.json.encode(given).decode()[:-1] + ',"choices":['
        end = '],"usage":null}\n\n' if self._options.usage else "]}\n\n"
        self._plain[index] = plain = ((start + before).encode(), (after + end).encode())
        return plain


def error_body(error: RouterError) -> tuple[int, ErrorBody]:
    """HTTP status and body of an error."""
    mapping = mapping_of(error)
    status = error.status if isinstance(error, NoSuchRoute) else mapping.http_status
    detail = ErrorDetail(
        message=str(error), type=mapping.openai_type, param=error.field, code=mapping.openai_code
    )
    return status, ErrorBody(error=detail)


def server_sent_event(body: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def finish_reason(ending: Ending | None) -> str | None:
    if ending is None:
        return None
    called = ending.tool_calls and ending.finish is FinishReason.STOP
    return "tool_calls" if called else ending.finish.value


def _has_content(delta: Delta) -> bool:
    return bool(delta.text or delta.logprobs or delta.ending or delta.tool_calls or delta.reasoning)
