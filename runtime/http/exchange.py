"""One request and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import h11

from runtime.http.asgi import App, Message, Scope

log = logging.getLogger("tandem.http")
MAX_BODY_HELD = 64 * 1024
"""Bytes of a body that wait for the application; then no more are read from the connection."""
CHUNKS = "tandem.chunks"
"""An extension of the scope; its `way` is of the class below."""
NO_BODY = (204, 304)
PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class Chunks(NamedTuple):
    """A short way for the pieces of a body that has begun: `write` does what `send` would do, as
    long as that would not wait, which is when they are `ready`. `end` takes the last piece of an
    answer whose client does not read, waits for nothing, and closes the connection."""

    ready: Callable[[], bool]
    write: Callable[[bytes], None]
    end: Callable[[bytes], None]


class Wire(Protocol):
    """What an exchange uses of its connection."""

    @property
    def closing(self) -> bool:
        """Whether an answer that begins now is the connection's last."""

    @property
    def writable(self) -> bool:
        """Whether the client has read enough for more to be written."""

    async def wait_writable(self) -> None:
        """Returns also when the connection is lost."""

    def write(self, data: bytes) -> None: ...

    def read_on(self) -> None:
        """The application has taken the body so far."""

    def answered(self, *, close: bool) -> None:
        """The answer is complete."""

    def abort(self) -> None: ...

    def default_headers(self) -> list[tuple[bytes, bytes]]: ...


class Exchange:
    """`run` calls the application. The connection feeds the body, and says when its client left."""

    def __init__(self, request: h11.Request, scope: Scope, parser: h11.Connection, wire: Wire):
        self._scope = scope
        self._http11 = request.http_version == b"1.1"
        self._head_only = request.method == b"HEAD"
        self._parser = parser
        self._wire = wire
        self._body = bytearray()
        self._body_complete = False
        self._news = asyncio.Event()
        self._disconnected = False
        self._started = self._complete = self._chunked = self._bodiless = False
        scope["extensions"] = {CHUNKS: {"way": Chunks(self._ready, self._write, self._cut)}}

    # For the connection.

    @property
    def started(self) -> bool:
        """The head of the answer has been sent."""
        return self._started

    @property
    def full(self) -> bool:
        return len(self._body) > MAX_BODY_HELD

    def feed(self, data: bytes) -> None:
        """A piece of the body; dropped when the answer is complete."""
        if not self._complete:
            self._body += data
            self._news.set()

    def end_body(self) -> None:
        self._body_complete = True
        self._news.set()

    def disconnect(self) -> None:
        """The client is gone: the application hears of it, and what it sends is dropped."""
        self._disconnected = True
        self._body.clear()
        self._news.set()

    async def run(self, app: App) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            log.exception("an HTTP application failed: %s", type(error).__name__)
        finally:
            self._scope.pop(
                "extensions", None
            )  # refers to this object: no collector need find that out
        if self._complete or self._disconnected:
            return
        if self._started:
            self._wire.abort()  # the client must not take what it has for a whole answer
        else:
            await self._send_failure()

    # For the application.

    async def receive(self) -> Message:
        if self._parser.they_are_waiting_for_100_continue and not self._started:
            self._wire.write(
                self._parser.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        if not (self._disconnected or self._complete):
            self._wire.read_on()
            await self._news.wait()
            self._news.clear()
        if self._disconnected or self._complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    async def send(self, message: Message) -> None:
        if not (self._wire.writable or self._disconnected):
            await self._wire.wait_writable()
        if self._disconnected:
            await asyncio.sleep(0)  # who sends without end must not keep the loop to himself
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], list(message.get("headers", ())))
            return
        self._write(message.get("body", b""))
        if not message.get("more_body", False):
            self._end()

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        headers = [*self._wire.default_headers(), *headers]
        if self._wire.closing:
            headers.append((b"connection", b"close"))
        sized = any(name.lower() == b"content-length" for name, _ in headers)
        self._bodiless = self._head_only or status in NO_BODY
        self._chunked = self._http11 and not sized and not self._bodiless
        head = h11.Response(status_code=status, headers=headers, reason=PHRASES.get(status, b""))
        self._wire.write(self._parser.send(head) or b"")
        self._started = True

    def _ready(self) -> bool:
        return self._wire.writable and not self._disconnected

    def _write(self, content: bytes) -> None:
        if self._bodiless or not content:
            return
        if self._chunked:  # as h11 does it, for every token
            self._wire.write(b"%x\r\n%b\r\n" % (len(content), content))
        else:
            self._wire.write(self._parser.send(h11.Data(data=content)) or b"")

    def _cut(self, content: bytes) -> None:
        if not self._disconnected:
            self._write(content)
            self._end(close=True)

    def _end(self, *, close: bool = False) -> None:
        self._wire.write(self._parser.send(h11.EndOfMessage()) or b"")
        self._complete = True
        self._body.clear()
        self._news.set()
        self._wire.answered(close=close or self._parser.our_state is h11.MUST_CLOSE)

    async def _send_failure(self) -> None:
        text = b"Internal Server Error"
        length = (b"content-length", str(len(text)).encode())
        headers = [(b"content-type", b"text/plain"), length, (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": text})
