"""One client connection: parses requests, one at a time, and writes responses.

Clients may hold thousands of connections open without completing a request, so each state that
waits for the client has a timeout, and each buffer a maximum size.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import h11
import msgspec

from runtime.http.asgi import App, Scope
from runtime.http.dates import HttpDate
from runtime.http.errors import BadRequest
from runtime.http.exchange import Exchange
from runtime.http.received import MAX_HEAD_BYTES, Received
from runtime.http.response_head import PHRASES
from runtime.http.timers import Timers

HEAD_S = 10.0
"""Timeout from a connection or a request's first byte to the end of its headers."""
IDLE_S = 75.0
"""Keep-alive timeout: longer than that of clients and proxies, whose requests would otherwise meet
a connection that is just being closed."""
STALL_S = 60.0
"""Timeout for a client to read sent data."""
LINGER_S = 1.0
"""Time in which the rest of a request is read and dropped after its response. Closing while the
client still sends would discard the response."""
MAX_PIPELINED = 64 * 1024
"""Maximum bytes of pipelined requests; beyond it, reading pauses."""
PARSE_BYTES = 16 * 1024
"""Bytes parsed at a time while they may be a body; the bytes behind it are put back."""
MAX_EVENTS_PER_TURN = 128
"""Body events parsed before other connections get a turn, since chunks may be tiny."""


class Shared:
    """State shared by all connections of one server."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.date = HttpDate()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.closing = False
        """Whether connections close after the current or next response."""
        self.unconnected = asyncio.Event()
        """Set while there is no connection."""
        self.unconnected.set()

    def add(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.unconnected.clear()

    def discard(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.unconnected.set()


class Connection(asyncio.Protocol):
    """Implements `runtime.http.exchange.Wire`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._loop)
        self._received = Received()
        self._parser: h11.Connection | None = None
        """The parser of the current request; None between requests."""
        self._exchange: Exchange | None = None
        self._request_complete = False
        self._answered = False
        self._close_after = False
        self._drops_input = False
        """Whether received data is dropped because the connection is closing."""
        self._paused = False
        self._is_writable = asyncio.Event()
        self._is_writable.set()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._shared.add(self)
        self._timers.start("head", HEAD_S, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.discard(self)
        self._timers.end()
        self._drops_input = True
        self._received.clear()
        self._is_writable.set()
        if self._exchange is not None:
            self._exchange.disconnect()
        self._exchange = self._parser = None

    def data_received(self, data: bytes) -> None:
        if self._drops_input:
            return
        self._received.add(data)
        if self._parser is None:
            self._begin()
        elif not self._request_complete:
            self._read_body()
        elif len(self._received) > MAX_PIPELINED:
            self._pause()

    def pause_writing(self) -> None:
        self._is_writable.clear()
        self._timers.start("stall", STALL_S, self.abort)

    def resume_writing(self) -> None:
        self._is_writable.set()
        self._timers.stop("stall")
        if self._exchange is not None:
            self._exchange.resume()

    # Called by the server.

    def retire(self) -> None:
        """Close if idle; otherwise after the response. A new connection, or one whose request is
        arriving, still gets a response."""
        if self._timers.runs("idle"):
            self._close()

    def finish(self) -> None:
        """Close after the current response, or now if there is none."""
        if self._exchange is None:
            self._close()

    # Called by the exchange.

    @property
    def closing(self) -> bool:
        """Whether the connection closes after this response; True if the request's body is not read
        to its end."""
        return self._shared.closing or not self._request_complete

    @property
    def writable(self) -> bool:
        return self._is_writable.is_set() and not self._transport.is_closing()

    async def wait_writable(self) -> None:
        await self._is_writable.wait()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"date", self._shared.date.now())]

    def resume_body(self) -> None:
        if not self._request_complete:
            self._resume()
            self._read_body()

    def answered(self, *, close: bool) -> None:
        self._answered, self._close_after = True, close or self.closing
        if self._request_complete:
            self._end_exchange()
        else:
            self._timers.start("linger", LINGER_S, self._close)
            self.resume_body()

    def abort(self) -> None:
        self._transport.abort()

    # From one request to the next.

    def _begin(self) -> None:
        """Start the next request if its headers have arrived."""
        try:
            head = self._received.take_head()
            if head is not None:
                self._start(head)
            elif len(self._received):
                self._timers.stop("idle")
                self._timers.start("head", HEAD_S, self.abort)
        except BadRequest as error:
            self._refuse(error)
        except h11.RemoteProtocolError as error:
            self._refuse(BadRequest(str(error), error.error_status_hint))

    def _start(self, head: bytes) -> None:
        self._timers.stop("idle", "head")
        self._parser = parser = h11.Connection(h11.SERVER, MAX_HEAD_BYTES)
        parser.receive_data(head)
        request = parser.next_event()
        assert isinstance(request, h11.Request), "the head is complete"
        _check(request)
        self._request_complete = self._answered = False
        self._exchange = Exchange(request, self._scope(request), parser, self)
        task = self._loop.create_task(self._exchange.run(self._shared.app), name="HTTP request")
        self._shared.tasks.add(task)
        task.add_done_callback(self._shared.tasks.discard)
        self._read_body()

    def _read_body(self) -> None:
        """Parse what has arrived of the body; yield after `MAX_EVENTS_PER_TURN` events."""
        try:
            for _ in range(MAX_EVENTS_PER_TURN):
                if self._parser is None or self._exchange is None or self._request_complete:
                    return
                if self._exchange.full:
                    self._pause()
                    return
                event = self._parser.next_event()
                if event is not h11.NEED_DATA:
                    self._take(event)
                elif len(self._received):
                    self._parser.receive_data(self._received.take(PARSE_BYTES))
                else:
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(BadRequest(str(error), error.error_status_hint))
            return
        self._pause()
        self._loop.call_soon(self.resume_body)

    def _take(self, event: Any) -> None:
        assert self._exchange is not None
        assert self._parser is not None
        if isinstance(event, h11.Data):
            self._exchange.feed(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._request_complete = True
            self._received.put_back(self._parser.trailing_data[0])
            self._exchange.end_body()
            if self._answered:
                self._end_exchange()

    def _end_exchange(self) -> None:
        """Finish an exchange whose request and response are complete."""
        self._timers.stop("linger")
        self._exchange = self._parser = None
        if self._close_after:
            self._close()
            return
        self._resume()
        self._timers.start("idle", IDLE_S, self._close)
        self._begin()

    def _refuse(self, error: BadRequest) -> None:
        """Send an error response, unless a response has begun; then close."""
        exchange, self._exchange = self._exchange, None
        self._drops_input = True
        self._received.clear()
        if exchange is not None:
            exchange.disconnect()
            if exchange.started:
                self.abort()
                return
        content = msgspec.json.encode(_error_body(error))
        self._transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b"
            % (error.status, PHRASES.get(error.status, b""), len(content), content)
        )
        self._timers.start("linger", LINGER_S, self._close)

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _close(self) -> None:
        """Close after the client has read the response, or after a timeout."""
        self._drops_input = True
        self._timers.start("flush", STALL_S, self.abort)
        self._transport.close()

    def _scope(self, request: h11.Request) -> Scope:
        path, _, query = _origin_form(request.target).partition(b"?")
        is_tls = self._transport.get_extra_info("sslcontext") is not None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "https" if is_tls else "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": _address(self._transport.get_extra_info("peername")),
            "server": _address(self._transport.get_extra_info("sockname")),
            "state": {},
        }


def _check(request: h11.Request) -> None:
    """Reject requests that h11 accepts but this server does not serve. Raises BadRequest."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise BadRequest(f"HTTP/{request.http_version.decode()} is not supported", 505)
    if request.method == b"CONNECT":
        raise BadRequest("CONNECT is not supported: this server is not a proxy", 405)
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and b"content-length" in names:
        raise BadRequest("a request must not have both Content-Length and Transfer-Encoding")
    if b"transfer-encoding" in names and request.http_version == b"1.0":
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding")


def _origin_form(target: bytes) -> bytes:
    """The target without scheme and host, which clients of proxies send."""
    for scheme in (b"http://", b"https://"):
        if target[: len(scheme)].lower() == scheme:
            _, slash, path = target[len(scheme) :].partition(b"/")
            return slash + path or b"/"
    return target


def _address(found: Any) -> tuple[str, int] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


def _error_body(error: BadRequest) -> dict[str, Any]:
    """An error body in OpenAI's format."""
    kind = "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": None}}
