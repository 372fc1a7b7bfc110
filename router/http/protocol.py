"""uvicorn's HTTP protocol, with an end to everything that a client may drag out.

A connection costs little, but clients that hold thousands of them open, and never come to the
point, cost everybody else: each state in which a connection waits for its client has a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 10.0
"""From the first byte of a request, or from the connection, to the end of its headers."""
MAX_HEAD_BYTES = 64 * 1024
STALL_S = 60.0
"""How long a client may leave unread what was sent to it."""
LINGER_S = 1.0
"""An answer that came before the request was complete is left on the wire that long."""


CHUNKS = "tandem.chunks"
"""An extension of the scope; its `way` is of the class below."""


class Chunks(NamedTuple):
    """A short way for the chunks of a body that has begun: `write` does what `send` would do, as
    long as that would not wait, which is when they are `ready`."""

    ready: Callable[[], bool]
    write: Callable[[bytes], None]


class BoundedProtocol(HttpToolsProtocol):
    """Connections that take too long, or send endless headers, are closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = False
        self._in_body = False
        self._num_requests = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self._end_after(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        goes_on = self._in_head
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if goes_on and self._in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.abort()

    # httptools calls these as it reads a request.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._num_requests += 1
        if self._head_timer is None:
            self._head_timer = self._end_after(HEAD_S)

    def on_headers_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._in_head, self._in_body = False, True
        chunks = Chunks(self._writable, self._write_chunk)
        self.scope.setdefault("extensions", {})[CHUNKS] = {"way": chunks}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:  # and nobody wants it any more
            self.loop.call_later(LINGER_S, self._end_unless_past, self._num_requests)

    # The transport calls these as its buffer fills and empties.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self._end_after(STALL_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _writable(self) -> bool:
        return not self.flow.write_paused and not self.transport.is_closing()

    def _write_chunk(self, content: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _end_after(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)

    def _end_unless_past(self, request: int) -> None:
        if self._in_body and self._num_requests == request:
            self.transport.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None
