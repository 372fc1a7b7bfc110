"""The HTTP door by itself: TLS, and clients that drag things out."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from router.http.asgi import read_body, send_chunk, send_start
from runtime import server_tls
from runtime.http import connection as http_connection
from runtime.http.server import HttpServer
from runtime.tls import BadCertificate, ServerTls
from tests.certificates import Authority, remove, spoil


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, or with what was sent."""
    if scope["path"] == "/early":
        await _answer(send, b"no")
    else:
        await _answer(send, await read_body(scope, receive, 10**6))


async def _answer(send: Send, content: bytes) -> None:
    await send_start(send, 200, [(b"content-length", str(len(content)).encode())])
    await send_chunk(send, content, more=False)


@asynccontextmanager
async def a_door(tls: ServerTls | None = None, app: ASGIApp = echo) -> AsyncIterator[int]:
    door = HttpServer(app, tls=tls)
    try:
        yield await door.start("127.0.0.1", 0, "http_port")
    finally:
        await door.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "clients")


def a_context(authority: Authority, client: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if client is not None:
        context.load_cert_chain(*client)
    return context


async def said(port: int, context: ssl.SSLContext) -> str:
    async with httpx2.AsyncClient(verify=context, timeout=60) as http:
        return (await http.post(f"https://localhost:{port}/", content=b"hello")).text


async def test_a_client_that_trusts_the_authority_is_served(authority: Authority) -> None:
    async with a_door(authority.door()) as port:
        assert await said(port, a_context(authority)) == "hello"
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await said(port, ssl.create_default_context())


async def test_who_speaks_plain_http_to_a_tls_door_is_cut_off_with_a_log(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_door(authority.door()) as port:
        async with httpx2.AsyncClient(timeout=60) as http:
            with pytest.raises(httpx2.HTTPError):
                await http.get(f"http://localhost:{port}/")
        assert await said(port, a_context(authority)) == "hello"
    assert "refused in the TLS handshake: HTTP_REQUEST" in caplog.text


async def test_clients_must_show_a_certificate_of_their_authority(
    authority: Authority, clients: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    good = a_context(authority, clients.sign("client", "alice"))
    bare, wrong = a_context(authority), a_context(authority, authority.sign("wrong", "alice"))
    async with a_door(authority.door(client_ca=clients.file)) as port:
        assert await said(port, good) == "hello"
        for context in (bare, wrong):
            with pytest.raises(httpx2.HTTPError):
                await said(port, context)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in caplog.text
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


async def test_replaced_files_hold_for_the_next_connection(
    authority: Authority, clients: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_tls, "CHECK_EVERY_S", 0.0)
    tls = authority.door(client_ca=clients.file)
    client = clients.sign("client", "alice")
    async with a_door(tls) as port:
        assert await said(port, a_context(authority, client)) == "hello"
        authority.sign("door", "elsewhere")
        with pytest.raises(httpx2.ConnectError, match="Hostname mismatch"):
            await said(port, a_context(authority, client))
        authority.door()
        assert await said(port, a_context(authority, client)) == "hello"
        os.replace(authority.file, clients.file)
        with pytest.raises(httpx2.HTTPError):
            await said(port, a_context(clients, client))


async def test_a_broken_new_certificate_leaves_the_former(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_tls, "CHECK_EVERY_S", 0.0)
    tls = authority.door()
    async with a_door(tls) as port:
        spoil(tls.key)
        assert await said(port, a_context(authority)) == "hello"
    assert "the previous certificate stays in use" in caplog.text


async def test_a_door_with_a_missing_certificate_does_not_open(authority: Authority) -> None:
    tls = authority.door()
    remove(tls.cert)
    with pytest.raises(BadCertificate, match="No such file"):
        await HttpServer(echo, tls=tls).start("127.0.0.1", 0, "http_port")


async def closed_by_server(port: int, *pieces: bytes) -> bytes:
    """What came before the server closed the connection, on which these pieces were sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(60):
            while piece := await reader.read(65536):
                received += piece
    except ConnectionError:
        pass
    finally:
        writer.close()
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\nx: "])
async def test_a_head_that_does_not_end_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_S", 0.05)
    async with a_door() as port:
        assert await closed_by_server(port, sent) == b""


async def test_so_does_one_after_an_answered_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_S", 0.05)
    async with a_door() as port:
        first = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        received = await closed_by_server(port, first, b"GET / HTTP/1.1\r\n")
        assert received.startswith(b"HTTP/1.1 200")


async def test_endless_headers_are_not_collected() -> None:
    async with a_door() as port:
        head = b"GET / HTTP/1.1\r\nhost: a\r\nx: "
        received = await closed_by_server(port, head, *(bytes([97]) * 65536 for _ in range(100)))
        assert received.startswith(b"HTTP/1.1 431 ")


async def test_large_bodies_in_one_piece_are_no_headers() -> None:
    async with a_door() as port:
        body = b"a" * 500_000
        async with httpx2.AsyncClient(timeout=60) as http:
            for _ in range(3):
                response = await http.post(f"http://localhost:{port}/", content=body)
                assert response.content == body


async def test_an_upload_that_nobody_wants_ends_soon_after_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "LINGER_S", 0.05)
    async with a_door() as port:
        head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nx"
        assert (await closed_by_server(port, head)).endswith(b"\r\n\r\nno")


async def test_an_upload_that_is_complete_by_then_keeps_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "LINGER_S", 0.0)
    async with a_door() as port, httpx2.AsyncClient(timeout=60) as http:
        for _ in range(3):
            response = await http.post(f"http://localhost:{port}/early", content=b"a" * 1000)
            assert response.text == "no"


async def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "STALL_S", 0.05)
    gone = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        async def pump() -> None:
            await send_start(send, 200, [])
            while not gone.is_set():
                await send_chunk(send, bytes(100_000), more=True)

        pumping = asyncio.create_task(pump())
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        await asyncio.gather(pumping, return_exceptions=True)

    async with a_door(app=endless) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(gone.wait(), 60)


async def test_idle_connections_end_after_those_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients keep theirs for 5 to 60 s: whoever closes first must not be the server."""
    assert http_connection.IDLE_S > 60
    monkeypatch.setattr(http_connection, "IDLE_S", 0)
    async with a_door() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /early HTTP/1.1\r\nhost: a\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.read()).endswith(b"no")  # to the connection's end
        writer.close()
