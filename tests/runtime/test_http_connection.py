"""HTTP connections byte by byte: where requests end, what is refused, and what stays of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from runtime.http import connection as http_connection
from runtime.http.asgi import Receive, Scope, Send
from runtime.http.connection import Connection
from runtime.http.exchange import Exchange
from runtime.http.server import HttpServer

GET = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"


class Recorder:
    """An application that tells each client the path and the body of its request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.began = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            body, more = body + message["body"], message["more_body"]
        self.seen.append((scope["path"], body))
        self.began.set()
        if scope["path"] == "/until-left":
            assert (await receive())["type"] == "http.disconnect"
            self.left.set()
            return
        await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (scope["path"].encode(), b"=", body):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Served:
    def __init__(self, server: HttpServer, app: Recorder, port: int) -> None:
        self.server, self.app, self.port = server, app, port

    async def answers(self, *pieces: bytes) -> bytes:
        """What comes until the server closes, or has nothing more to say to a `close`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(60):
                return await reader.read()
        finally:
            writer.close()

    async def gone(self) -> None:
        """Until the server has neither connections nor requests."""
        async with asyncio.timeout(60):
            while self.server.num_connections or self.server.num_requests:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    app = Recorder()
    server = HttpServer(app)
    try:
        yield Served(server, app, await server.start("127.0.0.1", 0, "http_port"))
    finally:
        await server.stop()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def closing(head: bytes, body: bytes = b"") -> bytes:
    return head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + body


@pytest.mark.parametrize(
    "headers",
    [
        b"upgrade: h2c\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABk\r\n",
        b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x3JJHMbDL1E=\r\n",
        b"upgrade: nonsense\r\n",
    ],
)
async def test_an_upgrade_is_ignored_and_its_body_is_a_body(served: Served, headers: bytes) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"
    head = b"POST /a HTTP/1.1\r\nhost: a\r\n" + headers
    sized = head + b"content-length: %d\r\n\r\n" % len(hidden)
    chunked = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(hidden)
    end = closing(GET)
    assert status(await served.answers(sized + hidden + end)) == 200
    await served.answers(sized, hidden, end)
    await served.answers(chunked + hidden + b"\r\n0\r\n\r\n" + end)
    assert served.app.seen == [("/a", hidden), ("/a", b"")] * 3


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na", 400),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"f" * 40
            + b"\r\n",
            400,
        ),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),  # LF alone
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", 400),  # continued on the next line
        (b"GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS at a plain port
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: 1\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 70_000, 431),
    ],
)
async def test_what_two_servers_might_read_differently_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes, expected: int
) -> None:
    """One answer, the connection ends, and nothing behind it is taken for a request."""
    monkeypatch.setattr(http_connection, "LINGER_S", 0.01)
    answer = await served.answers(request_bytes + GET)
    assert status(answer) == expected
    assert b"connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert served.app.seen == []


async def test_a_head_may_come_byte_by_byte(served: Served) -> None:
    ending = closing(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n", b"xy")
    answer = await served.answers(*(ending[at : at + 1] for at in range(len(ending))))
    assert status(answer) == 200
    assert served.app.seen == [("/a", b"xy")]


async def test_chunk_extensions_and_trailers_are_passed_over(served: Served) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    body = b'2;name="value"\r\nab\r\n1\r\nc\r\n0\r\nx-trailer: 1\r\n\r\n'
    assert status(await served.answers(head + body)) == 200
    assert served.app.seen == [("/a", b"abc")]


async def test_many_tiny_chunks_are_read_in_turns(served: Served) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    assert status(await served.answers(head + b"1\r\na\r\n" * 5000 + b"0\r\n\r\n")) == 200
    assert served.app.seen == [("/a", b"a" * 5000)]


async def test_requests_to_a_proxy_have_their_path(served: Served) -> None:
    await served.answers(closing(b"GET http://example.org/a/b?c=d HTTP/1.1\r\nhost: a\r\n\r\n"))
    await served.answers(closing(b"GET http://example.org HTTP/1.1\r\nhost: a\r\n\r\n"))
    assert [path for path, _ in served.app.seen] == ["/a/b", "/"]


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(served: Served) -> None:
    served.app.hold.clear()
    first = b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(first + GET * 1000 + closing(GET))
    await asyncio.wait_for(served.app.began.wait(), 60)
    gc.collect()
    assert sum(type(each) is Exchange for each in gc.get_objects()) == 1
    served.app.hold.set()
    answer = await asyncio.wait_for(reader.read(), 60)
    assert answer.count(b"HTTP/1.1 200 OK") == 1002
    assert [path for path, _ in served.app.seen] == ["/first"] + ["/a"] * 1001
    writer.close()


async def test_a_pipelined_request_may_send_its_body_slowly(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time begins when it does, not when the answer before it ends."""
    monkeypatch.setattr(http_connection, "LINGER_S", 0.001)
    head = b"POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(GET + head + b"ab")
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"0\r\n\r\n")
        await asyncio.sleep(0.02)  # far longer than the rest of a refused body is read
        writer.write(b"cd")
        assert status(await reader.read()) == 200
    assert served.app.seen == [("/a", b""), ("/b", b"abcd")]
    writer.close()


async def test_a_flood_of_pipelined_requests_is_not_collected(served: Served) -> None:
    """The server stops reading, so that the client cannot go on."""
    served.app.hold.clear()
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(GET)
        await asyncio.wait_for(served.app.began.wait(), 60)
        client.setblocking(False)
        (connection,) = served.server._shared.connections
        async with asyncio.timeout(60):
            while not connection._paused:
                with contextlib.suppress(BlockingIOError):
                    client.send(GET * 10_000)
                await asyncio.sleep(0)
        assert len(connection._received) <= http_connection.MAX_PIPELINED + 2**18
    served.app.hold.set()


@pytest.mark.parametrize("path", [b"/a", b"/until-left"])
@pytest.mark.parametrize("reset", [True, False])
async def test_nothing_of_a_connection_outlives_it(
    served: Served, path: bytes, reset: bool
) -> None:
    """Idle or waiting for an answer, ended by RST or FIN. None of it waits for the collector."""
    gc.collect()  # what other tests left
    head = b"GET %b HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (path, b"a" * 8000)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, head)
            if path == b"/a":
                assert await asyncio.wait_for(loop.sock_recv(client, 1000), 60)
            else:
                await asyncio.wait_for(served.app.began.wait(), 60)
        await served.gone()
    await asyncio.sleep(0)  # the event loop lets go as well
    kinds = (Connection, Exchange)
    assert [each for each in gc.get_objects() if type(each) in kinds] == []


async def test_a_client_that_leaves_in_the_middle_of_pipelining_is_noticed(served: Served) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /until-left HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
    await asyncio.wait_for(served.app.began.wait(), 60)
    writer.close()
    await asyncio.wait_for(served.app.left.wait(), 60)


async def test_an_unread_rest_of_an_answer_does_not_hold_a_closed_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "STALL_S", 0.05)
    served.app.hold.clear()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", served.port))
        body = b"a" * 8_000_000  # more than the system's buffers take
        head = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, closing(head, body))
        await asyncio.wait_for(served.app.began.wait(), 60)
        served.app.hold.set()
        await served.gone()


async def test_http_1_0_gets_plain_bytes_until_the_connection_ends(served: Served) -> None:
    for version in (b"POST /a HTTP/1.0\r\n", b"POST /a HTTP/1.0\r\nconnection: keep-alive\r\n"):
        answer = await served.answers(version + b"content-length: 2\r\n\r\nxy")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body == b"/a=xy"
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()


async def test_heads_and_expectations_are_answered_as_http_has_it(served: Served) -> None:
    answer = await served.answers(closing(b"HEAD /a HTTP/1.1\r\nhost: a\r\n\r\n"))
    assert answer.endswith(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n"
        b"connection: close\r\n\r\n"
    )
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        writer.write(b"xy")
        assert status(await reader.read()) == 200
    writer.close()


async def test_a_retired_server_closes_idle_connections_and_the_others_after_their_answer(
    served: Served,
) -> None:
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", served.port)
    idle_writer.write(GET)
    await asyncio.wait_for(idle.readuntil(b"0\r\n\r\n"), 60)
    served.app.hold.clear()
    served.app.began.clear()
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", served.port)
    busy_writer.write(GET)
    await asyncio.wait_for(served.app.began.wait(), 60)
    served.server.retire()
    assert await asyncio.wait_for(idle.read(), 60) == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", served.port)
    served.app.hold.set()
    answer = await asyncio.wait_for(busy.read(), 60)
    assert status(answer) == 200
    assert b"connection: close" in answer
    assert answer.endswith(b"0\r\n\r\n")
    idle_writer.close()
    busy_writer.close()


async def test_clients_of_an_application_that_fails_hear_500_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the message")

    server = HttpServer(fails)
    served = Served(server, Recorder(), await server.start("127.0.0.1", 0, "http_port"))
    try:
        answer = await served.answers(GET)
    finally:
        await server.stop()
    assert status(answer) == 500
    assert b"the message" not in answer
    assert "an HTTP application failed: RuntimeError" in caplog.text
