"""The gRPC door's gate by itself: clients that drag things out."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from router.access.gate import Gate
from router.fleet.fleet import Fleet
from router.grpc_api import grpc_gate as grpc_gate
from router.grpc_api.grpc_gate import SLACK_S, GrpcGate, connection_options
from router.metrics import RouterMetrics


async def forever(request: Any, context: grpc.aio.ServicerContext) -> None:
    await context.write(b"first")
    await asyncio.Event().wait()


async def test_a_call_that_outlives_its_longest_time_is_ended() -> None:
    fleet = Fleet("router", "model", open_timeout_s=1, index_max_entries=1)
    gate = GrpcGate(Gate(None), RouterMetrics(fleet), request_timeout_s=1.0 - SLACK_S)
    server = grpc.aio.server(interceptors=[gate])
    handlers = {"Generate": grpc.unary_stream_rpc_method_handler(forever)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.Service", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream("/a.Service/Generate")(b"")
        assert await call.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    await server.stop(0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_connection_that_says_nothing_is_closed() -> None:
    options = dict(connection_options(600))
    options["grpc.server_handshake_timeout_ms"] = 100
    server = grpc.aio.server(options=list(options.items()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(60):
        await reader.read()
    writer.close()
    await server.stop(0)


class Pinger:
    """As much HTTP/2 as pings need."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    PING = b"\0\0\x08\6\0\0\0\0\0" + bytes(8)

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        writer.write(self.PREFACE)

    async def ping(self) -> bytes | None:
        """None once it is answered; else what the server says as it closes the connection."""
        self._writer.write(self.PING)
        async with asyncio.timeout(60):
            while True:
                head = await self._reader.readexactly(9)
                body = await self._reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == 7:
                    return body[8:]
                if head[3:5] == b"\6\1":
                    return None


@pytest.mark.parametrize(("seconds", "told"), [(0.01, None), (0.0, b"too_many_pings")])
async def test_clients_may_ask_now_and_then_whether_the_router_lives_also_between_calls(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: bytes | None
) -> None:
    """A hundred times as fast as the router takes it, and as clients do; floods are ended."""
    monkeypatch.setattr(grpc_gate, "MIN_PING_MS", 5 if told is None else 60_000)
    server = grpc.aio.server(options=connection_options(600))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pinger, answers = Pinger(reader, writer), []
    while len(answers) < 10 and not any(answers):
        answers.append(await pinger.ping())
        await asyncio.sleep(seconds)
    writer.close()
    await server.stop(0)
    assert answers[-1] == told


def test_sensible_clients_ask_less_often_than_the_router_takes_it() -> None:
    assert 5 * grpc_gate.MIN_PING_MS <= 10_000
