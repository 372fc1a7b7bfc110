"""Many concurrent streams over plain sockets or gRPC, read as cheaply as possible in Python.

Only token counts are decoded, since the reader shares the machine with the router.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

import grpc
import msgspec

from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc


@dataclass(slots=True)
class Seen:
    """Arrival times at one client on the monotonic clock, with a list for each stream."""

    num_tokens: int = 0
    num_errors: int = 0
    ttft_s: list[float] = field(default_factory=list)
    arrivals: list[list[float]] = field(default_factory=list)

    def a_stream(self) -> list[float]:
        self.arrivals.append([])
        return self.arrivals[-1]


class SseStream(asyncio.Protocol):
    """One request on one connection, read until the server closes it or has sent its last line."""

    def __init__(self, request: bytes, seen: Seen, done: asyncio.Future[None]) -> None:
        self._request, self._seen, self._done = request, seen, done
        self._arrivals = seen.a_stream()
        self._started = 0.0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._started = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, chunks = time.monotonic(), data.count(b"data: {")
        if chunks and self._started:
            self._seen.ttft_s.append(now - self._started)
            self._started = 0.0
        elif chunks:
            self._arrivals.append(now)
        self._tail = (self._tail + data)[-2048:]
        if b"data: [DONE]" in self._tail:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        _, usage, rest = self._tail.rpartition(b'"completion_tokens":')
        if usage and b"[DONE]" in self._tail:
            self._seen.num_tokens += int(rest.split(b",")[0].split(b"}")[0])
        else:
            self._seen.num_errors += 1
        if not self._done.done():
            self._done.set_result(None)


async def read_sse(address: str, body: dict[str, object], seen: Seen) -> None:
    """Read one streamed completion."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    content = msgspec.json.encode(body)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode()
    try:
        await loop.create_connection(lambda: SseStream(head + content, seen, done), host, int(port))
    except OSError:
        seen.num_errors += 1
        return
    await done


async def read_grpc(stub: rpc.InferenceStub, request: pb.GenerateRequest, seen: Seen) -> None:
    """Read one generation."""
    started, arrivals = time.monotonic(), seen.a_stream()
    try:
        async for response in stub.Generate(request):
            now = time.monotonic()
            if started:
                seen.ttft_s.append(now - started)
                started = 0.0
            else:
                arrivals.append(now)
            seen.num_tokens += len(response.token_ids)
    except grpc.aio.AioRpcError:
        seen.num_errors += 1
