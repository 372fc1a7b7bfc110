"""POST /v1/completions and /v1/chat/completions, streamed and whole."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from starlette.types import Message, Receive, Scope, Send

from router.asgi import (
    Headers,
    discard_body,
    read_body,
    send_chunk,
    send_json,
    send_start,
    while_connected,
)
from router.conductor import Conductor
from router.errors import ClientGone, Internal, RouterError, TooLarge
from router.openai_api import ChatBody, CommonBody, CompletionBody
from router.openai_requests import chat_draft, completion_draft, parse_body
from router.openai_responses import (
    ChatStyle,
    CompletionStyle,
    Style,
    error_body,
    server_sent_event,
)
from router.requests import Delta, RequestDraft

DISCARD_S = 1.0
DONE = b"data: [DONE]\n\n"
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies that buffer would hold tokens back
]
log = logging.getLogger("tandem.router.http")


class GenerateEndpoint:
    """An ASGI application: it must see the client leave, which an ordinary endpoint does not."""

    def __init__(self, conductor: Conductor, *, chat: bool) -> None:
        self._conductor = conductor
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        try:
            with self._conductor.metrics.request("http"):
                limit = self._conductor.config.max_body_bytes
                body = await read_body(scope, receive, limit)
                await while_connected(receive, self._serve(body, _request_id(scope), answer))
        except ClientGone:
            return
        except TooLarge as error:
            await answer.fail_early(error, receive)
        except RouterError as error:
            await answer.fail(error)
        except Exception as error:
            log.exception("a request to %s failed", scope["path"])
            await answer.fail(Internal(f"the router failed: {type(error).__name__}"))

    async def _serve(self, content: bytes, request_id: str | None, answer: _Answer) -> None:
        body, draft = self._parse(content, request_id)
        headers: Headers = [(b"x-request-id", draft.request_id.encode())]
        style = self._style(body, draft)
        async with aclosing(self._conductor.generate(draft)) as deltas:
            if body.stream:
                await _stream(deltas, style, answer, headers, with_usage=_wants_usage(body))
            else:
                whole = style.whole([delta async for delta in deltas])
                await send_json(answer.send, 200, whole, *headers)

    def _parse(self, content: bytes, request_id: str | None) -> tuple[CommonBody, RequestDraft]:
        if self._chat:
            chat = parse_body(content, ChatBody)
            return chat, chat_draft(chat, request_id)
        completion = parse_body(content, CompletionBody)
        return completion, completion_draft(completion, request_id)

    def _style(self, body: CommonBody, draft: RequestDraft) -> Style:
        style = ChatStyle if self._chat else CompletionStyle
        return style(
            draft.request_id,
            self._conductor.card.name,
            self._conductor.tokenizer,
            with_usage=_wants_usage(body),
        )


async def _stream(
    deltas: AsyncGenerator[Delta, None],
    style: Style,
    answer: _Answer,
    headers: Headers,
    *,
    with_usage: bool,
) -> None:
    """The headers leave with the first token: until then an error can still be a status."""
    async for delta in deltas:
        if not answer.started:
            await send_start(answer.send, 200, EVENT_STREAM + headers)
            for opening in style.opening():
                await send_chunk(answer.send, server_sent_event(opening), more=True)
        chunk = style.chunk(delta)
        if chunk is not None:
            await send_chunk(answer.send, server_sent_event(chunk), more=True)
        if delta.ending is not None and with_usage:
            last = style.usage_chunk(delta.ending.usage)
            await send_chunk(answer.send, server_sent_event(last), more=True)
    await send_chunk(answer.send, DONE, more=False)


class _Answer:
    """Knows whether the status line has left, which decides how an error is told."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def send(self, message: Message) -> None:
        self.started = True
        await self._send(message)

    async def fail(self, error: RouterError) -> None:
        status, body = error_body(error)
        if self.started:
            await send_chunk(self._send, server_sent_event(body), more=False)
        else:
            await send_json(self._send, status, body, *_error_headers(error))

    async def fail_early(self, error: RouterError, receive: Receive) -> None:
        """The client is still sending, and will not be read to the end."""
        status, body = error_body(error)
        await send_json(self._send, status, body, (b"connection", b"close"), more=True)
        await discard_body(receive, DISCARD_S)
        await send_chunk(self._send, b"", more=False)


def _error_headers(error: RouterError) -> Iterator[tuple[bytes, bytes]]:
    if error.retry_after_s is not None:
        yield b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()


def _wants_usage(body: CommonBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _request_id(scope: Scope) -> str | None:
    """A client's own name for its request."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return bytes(value).decode("latin-1")
    return None
