"""The head of a response whose body is sent in chunks, written at less cost than by h11.

h11 parses and checks each header again whenever it adds one of its own; answers that are streamed
begin with the same few headers.
"""

from __future__ import annotations

import http
from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}


def asks_to_close(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a `Connection` header among them says `close`."""
    return any(
        b"close" in (option.strip() for option in value.lower().split(b","))
        for name, value in headers
        if name.lower() == b"connection"
    )


def chunked_head(status: int, headers: Headers, *, close: bool) -> bytes:
    """Status line and headers; `close` announces that no other response follows.

    Raises ValueError for a header that would not end where it should.
    """
    own: Headers = [(b"transfer-encoding", b"chunked")]
    if close and not asks_to_close(headers):
        own.append((b"connection", b"close"))
    lines = [b"HTTP/1.1 %d %b" % (status, PHRASES.get(status, b""))]
    lines += [b"%b: %b" % header for header in headers + own]
    head = b"\r\n".join(lines)
    if b"\0" in head or not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
        raise ValueError("a response header contains a line break or a zero byte")
    return head + b"\r\n\r\n"
