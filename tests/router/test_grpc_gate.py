"""The gRPC door's gate by itself: clients that drag things out."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from router.access.gate import Gate
from router.fleet import Fleet
from router.grpc_api.gate import SLACK_S, GrpcGate, connection_options
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
