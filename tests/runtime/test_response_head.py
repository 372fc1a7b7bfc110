"""Heads of streamed responses: as h11 writes them, and never two for one."""

from __future__ import annotations

import h11
import pytest

from runtime.http.response_head import asks_to_close, chunked_head

pytestmark = pytest.mark.quick

HEADERS = [(b"date", b"Mon, 30 Nov 2026 08:00:00 GMT"), (b"content-type", b"text/event-stream")]


def by_h11(headers: list[tuple[bytes, bytes]], request_headers: list[tuple[bytes, bytes]]) -> bytes:
    connection = h11.Connection(h11.SERVER)
    lines = [b"GET / HTTP/1.1", b"Host: a", *(b"%b: %b" % each for each in request_headers)]
    connection.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
    connection.next_event()
    head = connection.send(h11.Response(status_code=200, headers=headers, reason=b"OK"))
    assert head is not None
    return head.lower()


def test_a_head_is_the_one_that_h11_writes() -> None:
    assert chunked_head(200, HEADERS, close=False).lower() == by_h11(HEADERS, [])
    closing = [(b"Connection", b"close")]
    assert chunked_head(200, HEADERS, close=True).lower() == by_h11(HEADERS, closing)


def test_a_connection_header_of_the_application_is_not_repeated() -> None:
    head = chunked_head(200, [*HEADERS, (b"connection", b"close")], close=True)
    assert head.count(b"connection") == 1


@pytest.mark.parametrize(
    ("value", "closes"),
    [(b"close", True), (b"Keep-Alive, Close", True), (b"keep-alive", False), (b"closed", False)],
)
def test_clients_ask_to_close_in_any_spelling(value: bytes, closes: bool) -> None:
    assert asks_to_close([(b"host", b"close"), (b"connection", value)]) is closes


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
def test_no_header_begins_another(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        chunked_head(200, [(b"x-request-id", value)], close=False)
