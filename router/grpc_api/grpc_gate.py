"""The gRPC door's gate: an interceptor that knows its callers before a message is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from router.access.caller import CALLER, Caller
from router.access.gate import Gate
from router.errors import DeadlineExceeded, RouterError
from router.grpc_api.status import abort
from router.metrics import RouterMetrics

HEALTH = "/grpc.health.v1.Health/"
"""For load balancers and probes, which have no keys."""
ANSWERS = "/Generate"
"""Whose calls the metrics count."""
COUNTED = (ANSWERS, "/Tokenize", "/Detokenize")
"""Calls that compute something: the others are free, as GET is at the HTTP door."""
SLACK_S = 10.0
MIN_PING_MS = 1000
"""Minimum interval of pings on an idle connection; a client that pings more often is
disconnected."""
Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


def connection_options(request_timeout_s: float) -> list[tuple[str, int]]:
    """An end to everything that a client's connection may drag out."""
    return [
        # From the connection to the end of its handshakes, TLS and HTTP/2.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Clients that vanished are found out, and those that are merely quiet let go.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients and proxies ask every 10 s or more whether we live, also between calls: only
        # floods of pings end a connection. Without the second option the first does not hold there.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", 600_000),
        # Clients connect again, and to routers that are new; what they began comes to its end.
        ("grpc.max_connection_age_ms", 3_600_000),
        ("grpc.max_connection_age_grace_ms", int(1000 * (request_timeout_s + SLACK_S))),
        ("grpc.max_concurrent_streams", 4096),
    ]


class GrpcGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without a key, and ends those whose client neither reads nor leaves."""

    def __init__(self, gate: Gate, metrics: RouterMetrics, *, request_timeout_s: float) -> None:
        self._gate = gate
        self._metrics = metrics
        self._timeout_s = request_timeout_s + SLACK_S

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None or details.method.startswith(HEALTH):
            return handler
        try:
            caller = self._gate.caller(_authorization(details))
        except RouterError as error:
            return _replaced(handler, self._refusing(error, details.method))
        CALLER.set(caller)
        if details.method.endswith(COUNTED):
            counted = self._counted(caller, details.method, _method_of(handler))
            return _replaced(handler, counted)
        return handler

    def _counted(self, caller: Caller, name: str, method: Method) -> Method:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                caller.enter()
            except RouterError as error:
                return await self._refusing(error, name)(request, context)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await method(request, context)
            except TimeoutError:
                late = DeadlineExceeded(f"nobody read the answer for {self._timeout_s:g} s")
                return await abort(context, late)
            finally:
                caller.leave()

        return call

    def _refusing(self, error: RouterError, name: str) -> Method:
        async def refuse(request: Any, context: grpc.aio.ServicerContext) -> Any:
            if name.endswith(ANSWERS):
                self._metrics.refused("grpc", error)
            await abort(context, error)

        return refuse


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    for name, value in details.invocation_metadata or ():
        if name == "authorization":
            return str(value)
    return None


def _method_of(handler: grpc.RpcMethodHandler) -> Method:
    method: Method = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return method


def _replaced(handler: grpc.RpcMethodHandler, method: Method) -> grpc.RpcMethodHandler:
    """A handler of the same kind, with another method behind it."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = kinds[handler.request_streaming, handler.response_streaming]
    return make(method, handler.request_deserializer, handler.response_serializer)
