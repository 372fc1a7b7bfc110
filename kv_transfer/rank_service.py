"""A rank that does not decide: carries out what the deciding rank asks of its endpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from kv_transfer.calls import Handler, Reply
from kv_transfer.courier import WriteJob, Written
from kv_transfer.endpoint import OnCrash
from kv_transfer.probe import LinkSpeed
from kv_transfer.rank_endpoint import RankEndpoint
from kv_transfer.rank_messages import (
    AdmitPeer,
    BlocksWritten,
    ConnectPeer,
    DigestPages,
    DisconnectPeer,
    EvictPeer,
    PagesDigest,
    PeerAdmitted,
    PeerClosed,
    PeerConnected,
    StrandFailed,
    WriteBlocks,
)

log = logging.getLogger(__name__)


class RankService:
    """`handlers` may be called from one thread, which they never hold up; answers come from others.

    `notify(message)` takes what nobody has asked for, `on_crash(error)` what nobody expected.
    """

    def __init__(
        self, endpoint: RankEndpoint, notify: Callable[[msgspec.Struct], None], on_crash: OnCrash
    ) -> None:
        self._endpoint = endpoint
        self.handlers: Mapping[type[msgspec.Struct], Handler] = {
            AdmitPeer: self._admit,
            EvictPeer: self._evict,
            ConnectPeer: self._connect,
            WriteBlocks: self._write,
            DisconnectPeer: self._disconnect,
            DigestPages: self._digest,
        }
        self._notify = notify
        self._on_crash = on_crash
        self._digests = ThreadPoolExecutor(1, thread_name_prefix="digests")
        endpoint.start(self._link_failed, on_crash)

    def close(self) -> None:
        self._digests.shutdown()
        self._endpoint.stop()

    def _link_failed(self, link: str, cause: str) -> None:
        self._notify(StrandFailed(link, cause))

    def _admit(self, message: AdmitPeer, reply: Reply) -> None:
        def tell(admissions: tuple[bytes, ...]) -> None:
            reply(PeerAdmitted(admissions))

        self._endpoint.admit(message.link, message.source, tell)

    def _evict(self, message: EvictPeer, reply: Reply) -> None:
        self._endpoint.evict(message.link, lambda: reply(PeerClosed()))

    def _connect(self, message: ConnectPeer, reply: Reply) -> None:
        def tell(found: LinkSpeed | str) -> None:
            if isinstance(found, str):
                reply(PeerConnected(None, found))
            else:
                reply(PeerConnected(found, ""))

        self._endpoint.connect(message.link, message.peer, tell)

    def _write(self, message: WriteBlocks, reply: Reply) -> None:
        def done(written: Written) -> None:
            reply(BlocksWritten(written, self._endpoint.traffic(message.link)))

        job = WriteJob(message.link, message.passage, done, message.latest_start)
        self._endpoint.write(job)

    def _disconnect(self, message: DisconnectPeer, reply: Reply) -> None:
        self._endpoint.disconnect(message.link, lambda: reply(PeerClosed()))

    def _digest(self, message: DigestPages, reply: Reply) -> None:
        """Beside the courier, because a step waits for it."""

        def digest() -> None:
            try:
                found = self._endpoint.digest(message.source)(message.pages, message.first)
            except Exception as error:  # whoever waits for it must hear of it
                log.exception("pages cannot be read")
                self._on_crash(error)
            else:
                reply(PagesDigest(found))

        self._digests.submit(digest)
