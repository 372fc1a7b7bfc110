"""One round of each kind of hostile client. None has a key or waits for an orderly end."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc


@dataclass(frozen=True, slots=True)
class Aim:
    """The router under attack, and the maximum duration of a round's connections."""

    http: str
    grpc: str
    hold_s: float


class Client:
    """A raw socket, for bytes that no HTTP library would send."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._raw, data)

    async def receive(self) -> bytes:
        """Some received bytes; empty after the server has closed the connection."""
        return await self._loop.sock_recv(self._raw, 65536)

    async def receive_all(self) -> None:
        while await self.receive():
            pass

    def half_close(self) -> None:
        self._raw.shutdown(socket.SHUT_WR)

    def reset_when_closed(self) -> None:
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def connected(address: str, receive_bytes: int | None = None) -> AsyncIterator[Client]:
    """A connected client; errors caused by the server's reaction are ignored."""
    host, _, port = address.rpartition(":")
    with socket.socket() as raw:
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(raw, (host.strip("[]"), int(port)))
            yield Client(raw)
        except (ConnectionError, TimeoutError):
            return


def get(path: bytes = b"/ping", header_bytes: int = 8000) -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (path, b"a" * header_bytes)


def post(num_tokens: int, *, declared: int | None = None) -> bytes:
    """A streamed completion request; `declared` overrides its Content-Length."""
    body = json.dumps(
        {"prompt": "a", "stream": True, "max_tokens": num_tokens, "ignore_eos": True}
    ).encode()
    length = len(body) if declared is None else declared
    return b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (
        length,
        body,
    )


async def reset_when_idle(aim: Aim) -> None:
    async with connected(aim.http) as client:
        await client.send(get())
        await client.receive()
        client.reset_when_closed()


async def end_when_idle(aim: Aim) -> None:
    async with connected(aim.http) as client:
        await client.send(get())
        await client.receive()


async def reset_in_a_stream(aim: Aim) -> None:
    async with connected(aim.http) as client:
        await client.send(post(1000))
        await client.receive()
        client.reset_when_closed()


async def reset_before_the_answer(aim: Aim) -> None:
    async with connected(aim.http) as client:
        await client.send(post(1000))
        client.reset_when_closed()


async def half_close(aim: Aim) -> None:
    async with connected(aim.http) as client:
        await client.send(get())
        client.half_close()
        await client.receive_all()


async def slow_head(aim: Aim) -> None:
    await _drip(aim, get(header_bytes=60_000))


async def slow_body(aim: Aim) -> None:
    await _drip(aim, post(10, declared=100_000) + b" " * 60_000)


async def _drip(aim: Aim, data: bytes, pieces: int = 20) -> None:
    async with connected(aim.http) as client, asyncio.timeout(aim.hold_s):
        size = len(data) // pieces
        for at in range(0, len(data), size):
            await client.send(data[at : at + size])
            await asyncio.sleep(aim.hold_s / pieces)
        await client.receive_all()


async def never_read(aim: Aim) -> None:
    async with connected(aim.http, receive_bytes=4096) as client:
        await client.send(post(100_000))
        await asyncio.sleep(aim.hold_s)
        client.reset_when_closed()


async def never_read_grpc(aim: Aim) -> None:
    async with grpc.aio.insecure_channel(aim.grpc) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.Generate(pb.GenerateRequest(text="a", max_tokens=100_000, ignore_eos=True))
        await asyncio.sleep(aim.hold_s)
        call.cancel()


async def reset_grpc(aim: Aim) -> None:
    """Reset a gRPC connection within its handshake, with a ping and half a frame."""
    async with connected(aim.grpc) as client:
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        await client.send(
            b"\0\0\x08\6\0\0\0\0\0" + bytes(8) + b"\0\xff\xff\1\4\0\0\0\1" + b"a" * 8000
        )
        await client.receive()
        client.reset_when_closed()


async def pipeline(aim: Aim) -> None:
    """Send thousands of pipelined requests without reading responses."""
    async with connected(aim.http, receive_bytes=4096) as client:
        try:
            async with asyncio.timeout(aim.hold_s):
                await client.send(get(header_bytes=10) * 20_000)
        finally:
            client.reset_when_closed()


async def pipeline_in_a_stream(aim: Aim) -> None:
    async with connected(aim.http) as client:
        await client.send(post(1000) + get(header_bytes=10) * 1000)
        await client.receive()
        client.reset_when_closed()


async def nonsense(aim: Aim) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 8000,
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 100_000,
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /ping HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
        + b"a" * 8000,
    ):
        async with connected(aim.http) as client:
            await client.send(data)
            await client.receive()
            client.reset_when_closed()


Attack = Callable[[Aim], Coroutine[None, None, None]]
ATTACKS: tuple[Attack, ...] = (
    reset_when_idle,
    end_when_idle,
    reset_in_a_stream,
    reset_before_the_answer,
    half_close,
    slow_head,
    slow_body,
    never_read,
    never_read_grpc,
    reset_grpc,
    pipeline,
    pipeline_in_a_stream,
    nonsense,
)
