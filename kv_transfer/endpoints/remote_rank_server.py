"""A rank that does not decide: carries out what the deciding rank asks of its endpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from kv_transfer.endpoints.endpoint import OnCrash
from kv_transfer.endpoints.rank import RankEndpoint
from kv_transfer.endpoints.remote_rank_messages import (
    AdmitPeer,
    BlocksChecksum,
    BlocksWritten,
    ChecksumBlocks,
    ConnectPeer,
    DisconnectPeer,
    EvictPeer,
    Handler,
    PeerAdmitted,
    PeerClosed,
    PeerConnected,
    RankPairFailed,
    Reply,
    WriteBlocks,
)
from kv_transfer.endpoints.write_path import Written
from kv_transfer.transports.probe import LinkSpeed

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
            ChecksumBlocks: self._checksum,
        }
        self._notify = notify
        self._on_crash = on_crash
        self._digests = ThreadPoolExecutor(1, thread_name_prefix="checksums")
        endpoint.start(self._link_failed, on_crash)

    def close(self) -> None:
        self._digests.shutdown()
        self._endpoint.stop()

    def _link_failed(self, link: str, cause: str) -> None:
        self._notify(RankPairFailed(link, cause))

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

        self._endpoint.write(message.link, message.block_write, done, message.latest_start)

    def _disconnect(self, message: DisconnectPeer, reply: Reply) -> None:
        self._endpoint.disconnect(message.link, lambda: reply(PeerClosed()))

    def _checksum(self, message: ChecksumBlocks, reply: Reply) -> None:
        """Beside the transfer thread, because a step waits for it."""

        def checksum() -> None:
            try:
                found = self._endpoint.checksum(message.source)(message.pages, message.first)
            except Exception as error:  # whoever waits for it must hear of it
                log.exception("pages cannot be read")
                self._on_crash(error)
            else:
                reply(BlocksChecksum(found))

        self._digests.submit(checksum)
