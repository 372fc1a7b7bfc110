"""A fake worker for routers that proxy HTTP: streams one token per step in OpenAI's format.

    python -m benchmarks.router.backend --port 8100 --step-s 0.05

It answers the health checks of such routers, and writes to all its streams at multiples of `step_s`
after its start, as our own workers do in this benchmark.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, cast

import msgspec
import typer
import uvloop

CHUNK = (
    b'data: {"id":"cmpl-0","object":"text_completion","created":1,"model":"tiny-python",'
    b'"choices":[{"index":0,"text":" return","logprobs":null,"finish_reason":null}]}\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MODEL = {
    "object": "list",
    "data": [{"id": "tiny-python", "object": "model", "owned_by": "tandem"}],
    "model_path": "tiny-python",
    "is_generation": True,
    "status": "ok",
}


class Backend:
    """All open streams, each with its number of remaining tokens."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._wanted: dict[asyncio.Transport, list[int]] = {}

    def begin(self, transport: asyncio.Transport, num_tokens: int) -> None:
        transport.write(HEAD)
        self._wanted[transport] = [num_tokens, num_tokens]

    def end(self, transport: asyncio.Transport) -> None:
        self._wanted.pop(transport, None)

    async def step_for_ever(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._step_s - (time.monotonic() - began) % self._step_s)
            for transport, wanted in list(self._wanted.items()):
                transport.write(_chunk(CHUNK))
                wanted[0] -= 1
                if wanted[0] == 0:
                    transport.write(_chunk(_last(wanted[1])) + b"0\r\n\r\n")
                    self.end(transport)


class Door(asyncio.Protocol):
    """The part of HTTP that routers use with their workers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if end and len(body) >= length:
            self._received = body[length:]
            self._answer(head, body[:length])

    def connection_lost(self, exc: Exception | None) -> None:
        self._backend.end(self._transport)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST /v1/"):
            content = msgspec.json.encode(MODEL)
            length = f"Content-Length: {len(content)}\r\n\r\n".encode()
            kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            self._transport.write(kind + length + content)
            return
        asked = msgspec.json.decode(body, type=dict[str, Any])
        self._backend.begin(self._transport, int(asked["max_tokens"]))


def main(
    port: Annotated[int, typer.Option(help="To listen on, at 127.0.0.1.")] = 8100,
    step_s: Annotated[float, typer.Option(help="Between a stream's tokens.")] = 0.05,
) -> None:
    uvloop.run(_serve(port, step_s))


async def _serve(port: int, step_s: float) -> None:
    backend = Backend(step_s)
    await asyncio.get_running_loop().create_server(lambda: Door(backend), "127.0.0.1", port)
    print(f"serving at 127.0.0.1:{port}", flush=True)
    await backend.step_for_ever()


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def _last(num_tokens: int) -> bytes:
    usage = b'{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":1}' % num_tokens
    return b'data: {"id":"cmpl-0","choices":[],"usage":' + usage + b"}\n\ndata: [DONE]\n\n"


if __name__ == "__main__":
    typer.run(main)
