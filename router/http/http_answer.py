"""One answer on its way to one HTTP client: whole, in pieces, or an error."""

from __future__ import annotations

from starlette.types import Scope, Send

from router.errors import NotRead, RouterError
from router.http.asgi import send_chunk, send_json
from router.openai.headers import RequestHead, echoed_id, error_headers
from router.openai.response_writer import ResponseWriter, error_body, server_sent_event
from router.requests.request import Delta
from runtime.http.exchange import CHUNKS, Chunks


class HttpAnswer:
    """Knows whether the status line has left, which decides how an error is told."""

    def __init__(self, scope: Scope, send: Send, head: RequestHead) -> None:
        self.send = send
        self.chunks: Chunks | None = scope.get("extensions", {}).get(CHUNKS, {}).get("way")
        self.request_id = head.request_id
        self.names: dict[str, str] = {}
        self.started = False

    async def fail(self, error: RouterError) -> None:
        error.field = self.names.get(error.field or "", error.field)
        status, body = error_body(error)
        if self.started and isinstance(error, NotRead) and self.chunks is not None:
            self.chunks.end(server_sent_event(body))  # there is no waiting for this client
        elif self.started:
            await send_chunk(self.send, server_sent_event(body), more=False)
        else:
            headers = [*error_headers(error), *echoed_id(self.request_id)]
            await send_json(self.send, status, body, *headers)


class StreamWay:
    """Implements `router.answers.direct.Way` on a stream of events."""

    def __init__(self, answer: HttpAnswer, style: ResponseWriter, chunks: Chunks) -> None:
        self._answer = answer
        self._events = style.events
        self._has_room, self._write = chunks.ready, chunks.write

    def ready(self) -> bool:
        return self._answer.started and self._has_room()

    def take(self, delta: Delta) -> None:
        if events := self._events(delta):
            self._write(events)
