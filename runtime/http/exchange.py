"""One request and its response, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import h11

from runtime.http.asgi import App, Message, Scope
from runtime.http.response_head import PHRASES, asks_to_close, chunked_head

log = logging.getLogger("tandem.http")
MAX_BODY_BUFFERED = 64 * 1024
"""Maximum bytes of the body that wait for the application; beyond it, reading pauses."""
CHUNKS = "tandem.chunks"
"""An extension of the scope; its `chunks` are of the class below."""
NO_BODY = (204, 304)


class Chunks(NamedTuple):
    """An answer written without waiting, for whoever has no coroutine to wait in.

    `begin` and `write` do what `send` would do with a status and headers, and with a piece of the
    body, as long as that would not wait, which is when they are `ready`. `call_when_ready` takes a
    callback, the last of which is called once, when they are ready again. `end` takes the last
    piece of an answer that has begun and whose client does not read, waits for nothing, and closes
    the connection.
    """

    ready: Callable[[], bool]
    begin: Callable[[int, list[tuple[bytes, bytes]]], None]
    write: Callable[[bytes], None]
    end: Callable[[bytes], None]
    call_when_ready: Callable[[Callable[[], None]], None]


class Wire(Protocol):
    """The connection's interface for an exchange."""

    @property
    def closing(self) -> bool:
        """Whether a response that begins now is the connection's last."""

    @property
    def writable(self) -> bool:
        """Whether the write buffer has room."""

    async def wait_writable(self) -> None:
        """Wait until the connection is writable, or lost."""

    def write(self, data: bytes) -> None: ...

    def resume_body(self) -> None:
        """Continue to read the body, after the application has taken some."""

    def answered(self, *, close: bool) -> None:
        """End the response."""

    def abort(self) -> None: ...

    def default_headers(self) -> list[tuple[bytes, bytes]]: ...


class Exchange:
    """One request and its response. `run` calls the application; the connection feeds the body."""

    def __init__(self, request: h11.Request, scope: Scope, parser: h11.Connection, wire: Wire):
        self._scope = scope
        self._http11 = request.http_version == b"1.1"
        self._closes = asks_to_close(request.headers)
        self._head_only = request.method == b"HEAD"
        self._parser = parser
        self._wire = wire
        self._body = bytearray()
        self._body_complete = False
        self._body_event = asyncio.Event()
        self._disconnected = False
        self._started = self._complete = self._chunked = self._bodiless = False
        self._on_ready: Callable[[], None] | None = None
        chunks = Chunks(self._ready, self._start, self._write, self._cut, self._call_when_ready)
        scope["extensions"] = {CHUNKS: {"chunks": chunks}}

    # Called by the connection.

    @property
    def started(self) -> bool:
        """Whether the response's headers were sent."""
        return self._started

    @property
    def full(self) -> bool:
        return len(self._body) > MAX_BODY_BUFFERED

    def feed(self, data: bytes) -> None:
        """Add bytes of the body; dropped if the response is complete."""
        if not self._complete:
            self._body += data
            self._body_event.set()

    def end_body(self) -> None:
        self._body_complete = True
        self._body_event.set()

    def disconnect(self) -> None:
        """Report the client's disconnect to the application, and drop what it sends from now on."""
        self._disconnected = True
        self._body.clear()
        self._body_event.set()

    def resume(self) -> None:
        """The client has read enough for more to be written."""
        callback, self._on_ready = self._on_ready, None
        if callback is not None:
            callback()

    async def run(self, app: App) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            log.exception("an HTTP application failed: %s", type(error).__name__)
        finally:  # reference cycles with this object, which only the garbage collector would find
            self._scope.pop("extensions", None)
            self._on_ready = None
        if self._complete or self._disconnected:
            return
        if self._started:
            self._wire.abort()  # the client sees that the response is incomplete
        else:
            await self._send_failure()

    # Called by the application.

    async def receive(self) -> Message:
        if self._parser.they_are_waiting_for_100_continue and not self._started:
            self._wire.write(
                self._parser.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        if not (self._disconnected or self._complete):
            self._wire.resume_body()
            await self._body_event.wait()
            self._body_event.clear()
        if self._disconnected or self._complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    async def send(self, message: Message) -> None:
        if not (self._wire.writable or self._disconnected):
            await self._wire.wait_writable()
        if self._disconnected:
            await asyncio.sleep(0)  # lets other tasks run if the application sends without end
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], list(message.get("headers", ())))
            return
        self._write(message.get("body", b""))
        if not message.get("more_body", False):
            self._end()

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self._started:
            raise RuntimeError("the response has begun already")
        headers = [*self._wire.default_headers(), *headers]
        if self._wire.closing:
            headers.append((b"connection", b"close"))
        sized = any(name.lower() == b"content-length" for name, _ in headers)
        self._bodiless = self._head_only or status in NO_BODY
        self._chunked = self._http11 and not sized and not self._bodiless
        if self._chunked:
            self._closes = self._closes or asks_to_close(headers)
            self._wire.write(chunked_head(status, headers, close=self._closes))
        else:
            reason = PHRASES.get(status, b"")
            head = h11.Response(status_code=status, headers=headers, reason=reason)
            self._wire.write(self._parser.send(head) or b"")
        self._started = True

    def _call_when_ready(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready

    def _ready(self) -> bool:
        return self._wire.writable and not self._disconnected

    def _write(self, content: bytes) -> None:
        if self._bodiless or not content:
            return
        if self._chunked:  # the same bytes as h11's, but cheaper for every token
            self._wire.write(b"%x\r\n%b\r\n" % (len(content), content))
        else:
            self._wire.write(self._parser.send(h11.Data(data=content)) or b"")

    def _cut(self, content: bytes) -> None:
        if not self._disconnected:
            self._write(content)
            self._end(close=True)

    def _end(self, *, close: bool = False) -> None:
        if self._complete:
            raise RuntimeError("the response has ended already")
        if self._chunked:
            self._wire.write(b"0\r\n\r\n")
        else:
            self._wire.write(self._parser.send(h11.EndOfMessage()) or b"")
            self._closes = self._parser.our_state is h11.MUST_CLOSE
        self._complete = True
        self._body.clear()
        self._body_event.set()
        self._wire.answered(close=close or self._closes)

    async def _send_failure(self) -> None:
        text = b"Internal Server Error"
        length = (b"content-length", str(len(text)).encode())
        headers = [(b"content-type", b"text/plain"), length, (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": text})
