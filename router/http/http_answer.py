"""The response to one HTTP request: complete, a stream of events, or an error."""

from __future__ import annotations

from typing import cast

from starlette.types import Scope, Send

from router.errors import NotRead, RouterError
from router.http.asgi import Headers, send_chunk, send_json
from router.openai.headers import RequestHead, echoed_id, error_headers
from router.openai.response_writer import ResponseWriter, error_body, server_sent_event
from router.requests.request import Delta
from runtime.http.exchange import CHUNKS, Chunks

EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies would otherwise buffer tokens
]


class HttpAnswer:
    """The response; `started` tells whether its headers were sent, after which errors are
    events."""

    def __init__(self, scope: Scope, send: Send, head: RequestHead) -> None:
        self.send = send
        self.chunks = cast(Chunks, scope["extensions"][CHUNKS]["chunks"])
        self.request_id = head.request_id
        self.names: dict[str, str] = {}
        self.started = False

    def begin_stream(self) -> None:
        """Send the headers. The connection must be ready."""
        self.started = True
        self.chunks.begin(200, EVENT_STREAM + echoed_id(self.request_id))

    async def fail(self, error: RouterError) -> None:
        error.field = self.names.get(error.field or "", error.field)
        status, body = error_body(error)
        if self.started and isinstance(error, NotRead):
            self.chunks.end(server_sent_event(body))  # never wait for this client
        elif self.started:
            await send_chunk(self.send, server_sent_event(body), more=False)
        else:
            headers = [*error_headers(error), *echoed_id(self.request_id)]
            await send_json(self.send, status, body, *headers)


class EventWriter:
    """Implements DeltaWriter for server-sent events. Headers are sent with the first delta, so that
    an earlier error still has a status."""

    writing = False
    """Written data counts for the connection's own limits."""

    def __init__(self, answer: HttpAnswer, style: ResponseWriter) -> None:
        self.ready = answer.chunks.ready
        self.call_when_ready = answer.chunks.call_when_ready
        self._answer = answer
        self._events = style.events
        self._write = answer.chunks.write

    def write(self, delta: Delta) -> None:
        if not self._answer.started:
            self._answer.begin_stream()
        if events := self._events(delta):
            self._write(events)

    def check(self) -> None:
        """No-op: a lost connection ends the request by itself, see while_connected."""
