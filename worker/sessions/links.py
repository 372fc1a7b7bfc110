"""Links over which this worker sends blocks: connected, measured, reported, torn down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from kv_transfer.endpoints.endpoint import Endpoint, PeerPool
from kv_transfer.errors import TransferError
from kv_transfer.transports.link_kind import LinkEstimate, estimate_link
from kv_transfer.transports.probe import LinkSpeed
from wire.identity import WorkerRef
from wire.messages import WorkerCard
from wire.reports import LinkReport, Traffic
from worker.config import WorkerConfig
from worker.steps.step_context import Peer

BLOCK_S = 20e-6
"""Fixed cost of a block, in seconds: small blocks are slower for that, whatever the link."""
TRAFFIC_PERIOD_S = 1.0
"""Interval at which the traffic of a link is reported."""

log = logging.getLogger(__name__)


class Links:
    """The measured links to other workers, as routers are told of them.

    Lives on the event loop. `on_measured(link)` is called for every new link, and again when
    more has gone over it, where the transport counts that."""

    def __init__(
        self,
        config: WorkerConfig,
        card: WorkerCard,
        endpoint: Endpoint,
        on_measured: Callable[[LinkReport], None],
        hang_up: Callable[[str, str], None],
    ) -> None:
        self._config = config
        self._card = card
        self._endpoint = endpoint
        self._estimates: dict[str, LinkEstimate] = {}
        self._on_measured = on_measured
        self._hang_up = hang_up
        self._loop = asyncio.get_running_loop()
        self._measured: dict[WorkerRef, LinkReport] = {}

    @property
    def measured(self) -> tuple[LinkReport, ...]:
        return tuple(self._measured.values())

    def open(self, peer: Peer, card: WorkerCard, admissions: tuple[bytes, ...]) -> None:
        """Connect to a peer's pool; `on_measured` or `hang_up` is called later."""

        def tell(found: LinkSpeed | str) -> None:
            self._loop.call_soon_threadsafe(self._opened, peer, found)

        self._estimates[peer.link] = estimate_link(
            self._card.process,
            card.process,
            direct_access=self._endpoint.direct_access,
            between_gpus=self._card.on_gpu and card.on_gpu,
        )
        pool = PeerPool(card.layout, card.num_blocks, admissions)
        try:
            self._endpoint.connect(peer.link, pool, tell)
        except TransferError as error:
            self._opened(peer, str(error))

    async def close(self, peer: Peer) -> None:
        """Disconnect from a peer; returns when no write over the link is under way any more."""
        self._estimates.pop(peer.link, None)
        self._measured.pop(peer.ref, None)
        ended = asyncio.Event()

        def then() -> None:
            self._loop.call_soon_threadsafe(ended.set)

        self._endpoint.disconnect(peer.link, then)
        await ended.wait()

    def _opened(self, peer: Peer, found: LinkSpeed | str) -> None:
        estimate = self._estimates.pop(peer.link, None)
        if estimate is None:
            return  # closed in the meantime
        if isinstance(found, str):
            log.warning("no link to %s: %s", peer.ref, found)
            self._hang_up(peer.link, found)
            return
        link = self._describe(peer, estimate, found)
        self._measured[peer.ref] = link
        self._on_measured(link)
        if link.traffic is not None:
            self._loop.call_later(TRAFFIC_PERIOD_S, self._report_traffic, peer)

    def _describe(self, peer: Peer, estimate: LinkEstimate, found: LinkSpeed) -> LinkReport:
        least = min(estimate.least_bytes_per_s, self._card.layout.of_rank(0).block_bytes / BLOCK_S)
        least = self._config.slow_link_bytes_per_s or least
        link = LinkReport(
            destination=peer.ref,
            latency_s=found.latency_s,
            bytes_per_s=found.bytes_per_s,
            transport=self._card.transport,
            kind=estimate.kind.value,
            slow=found.bytes_per_s < least,
            traffic=self._traffic(peer),
        )
        log.log(
            logging.WARNING if link.slow else logging.INFO,
            "link to %s over %s, %s (%s): %s%s",
            *(peer.ref, link.transport, link.kind, estimate.why, found),
            f"; far below the {least / 1e9:.3g} GB/s that it should give: {estimate.advice}"
            if link.slow
            else "",
        )
        return link

    def _report_traffic(self, peer: Peer) -> None:
        """Report what has gone over a link, every TRAFFIC_PERIOD_S until it is closed."""
        link, traffic = self._measured.get(peer.ref), self._traffic(peer)
        if link is None or traffic is None:
            return
        if traffic != link.traffic:
            link = self._measured[peer.ref] = msgspec.structs.replace(link, traffic=traffic)
            self._on_measured(link)
        self._loop.call_later(TRAFFIC_PERIOD_S, self._report_traffic, peer)

    def _traffic(self, peer: Peer) -> Traffic | None:
        return self._endpoint.traffic(peer.link)
