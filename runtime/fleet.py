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
from wire.codec import BadMessage, decode, encode
from wire.messages import Join, Joined, WorkerCard

METHOD = "/tandem.internal.v1.Fleet/Join"
ANNOUNCE_EVERY_S = 1.0
REFUSED_EVERY_S = 5.0
"""A worker that is not taken asks less often: what keeps it out has to end first."""
FIRST_RETRY_S = 0.1
"""A router that starts together with its workers is there soon; each further wait is longer."""
NUM_QUIET = 8
"""So many times nobody may listen there, in some 5 s, until that is worth a line."""
log = logging.getLogger(__name__)


class FleetService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The router's side: `on_join(card)` is called for every announcement, also repeated ones. It
    returns why the worker is not taken, None when it is."""

    def __init__(
        self,
        router_id: str,
        on_join: Callable[[WorkerCard], str | None],
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
        refused = self._on_join(message.card)
        return encode(Joined(router_id=self._router_id, refused=refused))


class Announcements:
    """What one worker has told of one router that does not hear it, or does not take it: each cause
    once."""

    def __init__(self, fleet_address: str) -> None:
        self._address = fleet_address
        self._told: str | None = None
        self._num_failed = 0
        self._retry_s = FIRST_RETRY_S
        self.refused: str | None = None
        """Why the router does not take the worker; None when it does, or has not answered."""

    def failed(self, cause: str) -> float:
        """Nobody answered; seconds until the next try."""
        self._num_failed += 1
        may_start = "Connection refused" in cause and self._num_failed <= NUM_QUIET
        if cause != self._told and not may_start:
            log.warning("router %s does not hear this worker: %s", self._address, cause)
            self._told = cause
        wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, ANNOUNCE_EVERY_S)
        return wait_s

    def answered(self, answer: Joined) -> float:
        """The router heard it; seconds until the next announcement, more while it is refused."""
        why = answer.refused
        self._num_failed, self._retry_s, self._told = 0, FIRST_RETRY_S, None
        if why is not None and why != self.refused:
            log.warning("router %s does not take this worker: %s", self._address, why)
        if why is None and self.refused is not None:
            log.info("router %s takes this worker now", self._address)
        self.refused = why
        return ANNOUNCE_EVERY_S if why is None else REFUSED_EVERY_S


async def announce(
    fleet_address: str,
    card: Callable[[], WorkerCard],
    on_result: Callable[[bool], None],
    tls: MutualTls | None = None,
    on_refused: Callable[[str | None], None] = lambda why: None,
) -> None:
    """Announce a worker to one router until cancelled.

    `on_result` hears how each try went, `on_refused` after each answer why the router does not take
    the worker, or None.
    """
    told = Announcements(fleet_address)

    def heard(answer: Joined) -> float:
        wait_s = told.answered(answer)
        on_result(True)
        on_refused(answer.refused)
        return wait_s

    while True:
        try:
            await _announce_while_heard(fleet_address, card, heard, tls)
        except (grpc.RpcError, BadCertificate, BadMessage) as error:
            on_result(False)  # the router is not there yet, or not any more: try again
            await asyncio.sleep(told.failed(_cause(error)))


async def _announce_while_heard(
    fleet_address: str,
    card: Callable[[], WorkerCard],
    heard: Callable[[Joined], float],
    tls: MutualTls | None,
) -> None:
    """Over one channel, whose certificates are those of now."""
    async with open_channel(fleet_address, tls) as channel:
        join = channel.unary_unary(METHOD)
        while True:
            frame = await join(encode(Join(card=card())), timeout=ANNOUNCE_EVERY_S * 5)
            answer = decode(frame)
            if not isinstance(answer, Joined):
                raise BadMessage(f"{fleet_address} answered {type(answer).__name__}, not Joined")
            await asyncio.sleep(heard(answer))


def _cause(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
