"""How workers join a router's fleet: they announce themselves again and again, and are called back.

A router that restarts, or a new one, is found by the next announcement; nothing has to be
configured on the router, and no port is fixed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from runtime.session import open_channel, refuse_strangers
from runtime.tls import BadCertificate, MutualTls
from wire.codec import decode, encode
from wire.messages import Join, Joined, WorkerCard

METHOD = "/tandem.internal.v1.Fleet/Join"
ANNOUNCE_EVERY_S = 1.0
FIRST_RETRY_S = 0.1
"""A router that starts together with its workers is there soon; each further wait is longer."""
NUM_QUIET = 8
"""So many times nobody may listen there, in some 5 s, until that is worth a line."""
log = logging.getLogger(__name__)


class FleetService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The router's side: `on_join(card)` is called for every announcement, also repeated ones."""

    def __init__(
        self,
        router_id: str,
        on_join: Callable[[WorkerCard], None],
        tls: MutualTls | None = None,
    ) -> None:
        self._router_id = router_id
        self._tls = tls
        self._on_join = on_join

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._join)

    async def _join(self, frame: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await refuse_strangers(context, self._tls)
        message = decode(frame)
        if not isinstance(message, Join):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the fleet port takes only Join")
        assert isinstance(message, Join)
        self._on_join(message.card)
        return encode(Joined(router_id=self._router_id))


async def announce(
    fleet_address: str,
    card: Callable[[], WorkerCard],
    on_result: Callable[[bool], None],
    tls: MutualTls | None = None,
) -> None:
    """Announce a worker to one router until cancelled; `on_result` hears how each try went."""
    told: str | None = None
    num_refused, wait_s = 0, FIRST_RETRY_S

    def heard() -> None:
        nonlocal told, num_refused, wait_s
        told, num_refused, wait_s = None, 0, FIRST_RETRY_S
        on_result(True)

    while True:
        try:
            await _announce_while_heard(fleet_address, card, heard, tls)
        except (grpc.RpcError, BadCertificate) as error:
            on_result(False)  # the router is not there yet, or not any more: try again
            cause = _cause(error)
            num_refused += 1
            may_start = "Connection refused" in cause and num_refused <= NUM_QUIET
            if cause != told and not may_start:
                log.warning("router %s does not hear this worker: %s", fleet_address, cause)
                told = cause
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, ANNOUNCE_EVERY_S)


async def _announce_while_heard(
    fleet_address: str,
    card: Callable[[], WorkerCard],
    heard: Callable[[], None],
    tls: MutualTls | None,
) -> None:
    """Over one channel, whose certificates are those of now."""
    async with open_channel(fleet_address, tls) as channel:
        join = channel.unary_unary(METHOD)
        while True:
            await join(encode(Join(card=card())), timeout=ANNOUNCE_EVERY_S * 5)
            heard()
            await asyncio.sleep(ANNOUNCE_EVERY_S)


def _cause(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
