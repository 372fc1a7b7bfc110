"""How workers join a router's fleet: they announce themselves again and again, and are called back.

A router that restarts, or a new one, is found by the next announcement; nothing has to be
configured on the router, and no port is fixed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from runtime.session import CHANNEL_OPTIONS
from wire.codec import decode, encode
from wire.messages import Join, Joined, WorkerCard

METHOD = "/tandem.internal.v1.Fleet/Join"
ANNOUNCE_EVERY_S = 1.0


class FleetService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The router's side: `on_join(card)` is called for every announcement, also repeated ones."""

    def __init__(self, router_id: str, on_join: Callable[[WorkerCard], None]) -> None:
        self._router_id = router_id
        self._on_join = on_join

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._join)

    async def _join(self, frame: bytes, context: grpc.aio.ServicerContext) -> bytes:
        message = decode(frame)
        if not isinstance(message, Join):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the fleet port takes only Join")
        assert isinstance(message, Join)
        self._on_join(message.card)
        return encode(Joined(router_id=self._router_id))


async def announce(
    fleet_address: str, card: Callable[[], WorkerCard], on_result: Callable[[bool], None]
) -> None:
    """Announce a worker to one router until cancelled; `on_result` hears how each try went."""
    async with grpc.aio.insecure_channel(fleet_address, options=CHANNEL_OPTIONS) as channel:
        join = channel.unary_unary(METHOD)
        while True:
            try:
                await join(encode(Join(card=card())), timeout=ANNOUNCE_EVERY_S * 5)
                on_result(True)
            except grpc.RpcError:
                on_result(False)  # the router is not there yet, or not any more: try again
            await asyncio.sleep(ANNOUNCE_EVERY_S)
