"""One client's connection: its bytes become requests, one at a time, and answers its bytes.

A connection costs little, but clients that hold thousands of them open, and never come to the
point, cost everybody else: each state in which a connection waits for its client has a time, and
everything that waits has a size.
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
from runtime.http.exchange import PHRASES, Exchange
from runtime.http.received import MAX_HEAD_BYTES, Received
from runtime.http.timers import Timers

HEAD_S = 10.0
"""From the first byte of a request, or from the connection, to the end of its headers."""
IDLE_S = 75.0
"""How long a connection may wait for its next request: longer than clients and proxies keep theirs,
or a request meets a connection that is just being closed."""
STALL_S = 60.0
"""How long a client may leave unread what was sent to it."""
LINGER_S = 1.0
"""How long the rest of a request is read and dropped once its answer is complete: who closes a
connection on which the client still sends takes the answer back."""
MAX_PIPELINED = 64 * 1024
"""Bytes of further requests that wait for the answer to the first; then no more are read."""
PIECE_BYTES = 16 * 1024
"""So much is parsed at a time of what may be a body: what follows it is put back."""
EVENTS_AT_ONCE = 128
"""Pieces of a body that are read before others have their turn: chunks may be tiny."""


class Shared:
    """What the connections of one server share."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.date = HttpDate()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.closing = False
        """Whether connections close after the answer that is under way, or the next."""
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
        """Of the request that is being read or answered; None between requests."""
        self._exchange: Exchange | None = None
        self._request_complete = False
        self._answered = False
        self._close_after = False
        self._drops = False
        """Whether everything that still comes is dropped, for the connection is being closed."""
        self._paused = False
        self._is_writable = asyncio.Event()
        self._is_writable.set()

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._shared.add(self)
        self._timers.start("head", HEAD_S, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.discard(self)
        self._timers.end()
        self._drops = True
        self._received.clear()
        self._is_writable.set()
        if self._exchange is not None:
            self._exchange.disconnect()
        self._exchange = self._parser = None

    def data_received(self, data: bytes) -> None:
        if self._drops:
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

    # The server calls these.

    def retire(self) -> None:
        """Close when idle; otherwise after the answer. One that has just been opened, or whose
        request is arriving, may still be answered."""
        if self._timers.runs("idle"):
            self._close()

    def finish(self) -> None:
        """Close unless an answer is under way, and then after it."""
        if self._exchange is None:
            self._close()

    # The exchange calls these.

    @property
    def closing(self) -> bool:
        """Also when the client still sends: its body will not be read to the end."""
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

    def read_on(self) -> None:
        if not self._request_complete:
            self._resume()
            self._read_body()

    def answered(self, *, close: bool) -> None:
        self._answered, self._close_after = True, close or self.closing
        if self._request_complete:
            self._end_exchange()
        else:
            self._timers.start("linger", LINGER_S, self._close)
            self.read_on()

    def abort(self) -> None:
        self._transport.abort()

    # From one request to the next.

    def _begin(self) -> None:
        """Start the next request if its head is there."""
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
        """What has arrived of it, in turns."""
        try:
            for _ in range(EVENTS_AT_ONCE):
                if self._parser is None or self._exchange is None or self._request_complete:
                    return
                if self._exchange.full:
                    self._pause()
                    return
                event = self._parser.next_event()
                if event is not h11.NEED_DATA:
                    self._take(event)
                elif len(self._received):
                    self._parser.receive_data(self._received.take(PIECE_BYTES))
                else:
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(BadRequest(str(error), error.error_status_hint))
            return
        self._pause()
        self._loop.call_soon(self.read_on)

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
        """Request and answer are complete."""
        self._timers.stop("linger")
        self._exchange = self._parser = None
        if self._close_after:
            self._close()
            return
        self._resume()
        self._timers.start("idle", IDLE_S, self._close)
        self._begin()

    def _refuse(self, error: BadRequest) -> None:
        """Tell the client, unless an answer has begun; then the connection ends."""
        exchange, self._exchange = self._exchange, None
        self._drops = True
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
        """What was written is still sent, if the client reads it in time."""
        self._drops = True
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
    """What h11 leaves open. Raises BadRequest."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise BadRequest(f"HTTP/{request.http_version.decode()} is not spoken here", 505)
    if request.method == b"CONNECT":
        raise BadRequest("this is no proxy: CONNECT leads nowhere", 405)
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and b"content-length" in names:
        raise BadRequest("a body has a Content-Length or a Transfer-Encoding, not both")
    if b"transfer-encoding" in names and request.http_version == b"1.0":
        raise BadRequest("HTTP/1.0 knows no Transfer-Encoding")


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
    """As OpenAI's servers say it."""
    kind = "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": None}}
