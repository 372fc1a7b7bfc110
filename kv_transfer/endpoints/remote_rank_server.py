"""The server of a rank other than 0: carries out the calls of rank 0 on this rank's endpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor

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
from kv_transfer.layout.checksum import wait_for
from kv_transfer.transports.probe import LinkSpeed

log = logging.getLogger(__name__)


class RankService:
    """Call `handlers` from one thread; they never block it, and replies come from other threads.

    `notify(message)` sends rank 0 a message that it has not asked for; `on_crash(error)` is called
    with an error that nobody expected.
    """

    def __init__(
        self,
        endpoint: RankEndpoint,
        notify: Callable[[msgspec.Struct], None],
        on_crash: OnCrash,
        checksums: Executor | None = None,
    ) -> None:
        """`checksums` computes them; a thread of its own where it is None."""
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
        self._checksums = checksums or ThreadPoolExecutor(
            1, thread_name_prefix="checksums", initializer=endpoint.bind_thread
        )
        endpoint.start(self._link_failed, on_crash)

    def close(self) -> None:
        self._checksums.shutdown()
        self._endpoint.stop()

    def _link_failed(self, link: str, cause: str) -> None:
        self._notify(RankPairFailed(link, cause))

    def _admit(self, message: AdmitPeer, reply: Reply) -> None:
        def on_admitted(admissions: tuple[bytes, ...]) -> None:
            reply(PeerAdmitted(admissions))

        self._endpoint.admit(message.link, message.source, on_admitted)

    def _evict(self, message: EvictPeer, reply: Reply) -> None:
        self._endpoint.evict(message.link, lambda: reply(PeerClosed()))

    def _connect(self, message: ConnectPeer, reply: Reply) -> None:
        def on_result(found: LinkSpeed | str) -> None:
            if isinstance(found, str):
                reply(PeerConnected(None, found))
            else:
                reply(PeerConnected(found, ""))

        self._endpoint.connect(message.link, message.peer, on_result)

    def _write(self, message: WriteBlocks, reply: Reply) -> None:
        def done(written: Written) -> None:
            reply(BlocksWritten(written, self._endpoint.traffic(message.link)))

        self._endpoint.write(message.link, message.block_write, done, message.latest_start)

    def _disconnect(self, message: DisconnectPeer, reply: Reply) -> None:
        self._endpoint.disconnect(message.link, lambda: reply(PeerClosed()))

    def _checksum(self, message: ChecksumBlocks, reply: Reply) -> None:
        """Runs in a thread beside the transfer thread, because a step of rank 0 waits for it."""

        def checksum() -> None:
            try:
                compute = self._endpoint.checksum(message.source)
                found = wait_for(compute(message.blocks, message.first))
            except Exception as error:  # rank 0 waits for it: the rank must not look alive
                log.exception("blocks cannot be read")
                self._on_crash(error)
            else:
                reply(BlocksChecksum(found))

        self._checksums.submit(checksum)
