"""One answer on its way to one HTTP client: whole, in pieces, or an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from router.errors import RouterError
from router.http.asgi import discard_body, send_chunk, send_json
from router.http.headers import RequestHead, echoed_id
from router.http.protocol import WRITABLE
from router.openai.responses import Style, error_body, server_sent_event
from router.requests import Delta

DISCARD_S = 1.0
_NEVER = {"now": lambda: False}


class HttpAnswer:
    """Knows whether the status line has left, which decides how an error is told."""

    def __init__(self, scope: Scope, send: Send, head: RequestHead) -> None:
        self.send = send
        self.writable: Callable[[], bool] = scope.get("extensions", {}).get(WRITABLE, _NEVER)["now"]
        self.request_id = head.request_id
        self.names: dict[str, str] = {}
        self.started = False

    def send_now(self, content: bytes) -> None:
        """Where it is `writable`: sending does not wait then, and needs no task."""
        message = {"type": "http.response.body", "body": content, "more_body": True}
        sending = cast(Coroutine[Any, Any, None], self.send(message))
        with suppress(StopIteration):
            sending.send(None)
            raise AssertionError("the client's buffer was full after all")

    async def fail(self, error: RouterError) -> None:
        error.field = self.names.get(error.field or "", error.field)
        status, body = error_body(error)
        if self.started:
            await send_chunk(self.send, server_sent_event(body), more=False)
        else:
            headers = [*_error_headers(error), *echoed_id(self.request_id)]
            await send_json(self.send, status, body, *headers)

    async def fail_early(self, error: RouterError, receive: Receive) -> None:
        """The client is still sending, and will not be read to the end."""
        status, body = error_body(error)
        headers = [(b"connection", b"close"), *echoed_id(self.request_id)]
        await send_json(self.send, status, body, *headers, more=True)
        await discard_body(receive, DISCARD_S)
        await send_chunk(self.send, b"", more=False)


class StreamWay:
    """Implements `router.direct.Way` on a stream of events."""

    def __init__(self, answer: HttpAnswer, style: Style) -> None:
        self._answer = answer
        self._style = style

    def ready(self) -> bool:
        return self._answer.started and self._answer.writable()

    def take(self, delta: Delta) -> None:
        if events := self._style.events(delta):
            self._answer.send_now(events)


def _error_headers(error: RouterError) -> Iterator[tuple[bytes, bytes]]:
    if error.retry_after_s is not None:
        yield b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()
