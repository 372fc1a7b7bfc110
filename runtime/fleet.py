"""Fleet membership: workers announce themselves to each router as a heartbeat, and routers call
back.

The next announcement finds a restarted or new router, so routers need no list of workers and no
fixed ports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from runtime.session import open_channel, require_member
from runtime.tls import BadCertificate, MutualTls
from wire.codec import BadMessage, decode, encode
from wire.messages import Join, Joined, WorkerCard

METHOD = "/tandem.internal.v1.Fleet/Join"
ANNOUNCE_EVERY_S = 1.0
REFUSED_EVERY_S = 5.0
"""Interval of announcements to a router that refuses the worker."""
FIRST_RETRY_S = 0.1
"""First retry interval, short because routers often start together with workers; then it
doubles."""
MAX_QUIET_FAILURES = 8
"""Refused connections that are not logged, about 5 s of them, since the router may still start."""
log = logging.getLogger(__name__)


class FleetService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The router's side: calls `on_join(card)` for every announcement, also repeated ones.

    `on_join` returns the reason for refusing the worker, or None to accept it.
    """

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
        await require_member(context, self._tls)
        message = decode(frame)
        if not isinstance(message, Join):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the fleet port accepts only Join"
            )
        assert isinstance(message, Join)
        refused = self._on_join(message.card)
        return encode(Joined(router_id=self._router_id, refused=refused))


class Announcements:
    """A worker's announcements to one router: retry intervals, and each cause of failure logged
    once."""

    def __init__(self, fleet_address: str) -> None:
        self._address = fleet_address
        self._logged_cause: str | None = None
        self._num_failed = 0
        self._retry_s = FIRST_RETRY_S
        self.refused: str | None = None
        """The router's reason for refusing the worker; None if it accepts, or has not answered."""

    def failed(self, cause: str) -> float:
        """Record an announcement without an answer; returns the seconds until the next one."""
        self._num_failed += 1
        may_start = "Connection refused" in cause and self._num_failed <= MAX_QUIET_FAILURES
        if cause != self._logged_cause and not may_start:
            log.warning("router %s cannot be reached: %s", self._address, cause)
            self._logged_cause = cause
        wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, ANNOUNCE_EVERY_S)
        return wait_s

    def answered(self, answer: Joined) -> float:
        """Record an answer; returns the seconds until the next announcement, longer if refused."""
        reason = answer.refused
        self._num_failed, self._retry_s, self._logged_cause = 0, FIRST_RETRY_S, None
        if reason is not None and reason != self.refused:
            log.warning("router %s refuses this worker: %s", self._address, reason)
        if reason is None and self.refused is not None:
            log.info("router %s accepts this worker now", self._address)
        self.refused = reason
        return ANNOUNCE_EVERY_S if reason is None else REFUSED_EVERY_S


async def announce(
    fleet_address: str,
    card: Callable[[], WorkerCard],
    on_result: Callable[[bool], None],
    tls: MutualTls | None = None,
    on_refused: Callable[[str | None], None] = lambda reason: None,
) -> None:
    """Announce a worker to one router until cancelled.

    `on_result(answered)` is called after each announcement, `on_refused(reason)` after each answer,
    with None if the router accepts the worker.
    """
    announcements = Announcements(fleet_address)

    def on_answer(answer: Joined) -> float:
        wait_s = announcements.answered(answer)
        on_result(True)
        on_refused(answer.refused)
        return wait_s

    while True:
        try:
            await _announce_until_failure(fleet_address, card, on_answer, tls)
        except (grpc.RpcError, BadCertificate, BadMessage) as error:
            on_result(False)  # the router has not started yet, or has ended: try again
            await asyncio.sleep(announcements.failed(_cause(error)))


async def _announce_until_failure(
    fleet_address: str,
    card: Callable[[], WorkerCard],
    on_answer: Callable[[Joined], float],
    tls: MutualTls | None,
) -> None:
    """Announce over one channel until a call fails; a new channel reads the certificates again."""
    async with open_channel(fleet_address, tls) as channel:
        join = channel.unary_unary(METHOD)
        while True:
            frame = await join(encode(Join(card=card())), timeout=ANNOUNCE_EVERY_S * 5)
            answer = decode(frame)
            if not isinstance(answer, Joined):
                raise BadMessage(f"{fleet_address} answered {type(answer).__name__}, not Joined")
            await asyncio.sleep(on_answer(answer))


def _cause(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
