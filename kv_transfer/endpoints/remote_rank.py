"""Another rank's endpoint, as the rank that decides has it: everything goes there as a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import msgspec

from kv_transfer.endpoints.endpoint import (
    OnCrash,
    OnLinkFailed,
    PeerPool,
    TellAdmissions,
    TellSpeed,
)
from kv_transfer.endpoints.remote_rank_messages import (
    AdmitPeer,
    BlocksChecksum,
    BlocksWritten,
    Calls,
    ChecksumBlocks,
    ConnectPeer,
    DisconnectPeer,
    EvictPeer,
    PeerAdmitted,
    PeerClosed,
    PeerConnected,
    RankPairFailed,
    WriteBlocks,
)
from kv_transfer.endpoints.write_path import OnWritten, Written
from kv_transfer.layout.block_write import BlockWrite
from wire.layout import KvLayout
from wire.reports import Traffic

T = TypeVar("T", bound=msgspec.Struct)

log = logging.getLogger(__name__)


class RemoteRank:
    """Does what `kv_transfer.endpoints.endpoint.Endpoint` says, for one rank in another process.

    A rank that is dead reads and writes nothing any more: what was asked of it is over.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._traffic: dict[str, Traffic | None] = {}

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        """That the rank has crashed is for others to notice."""
        self._on_link_failed = on_link_failed

    def heard(self, message: RankPairFailed) -> None:
        """What it says unasked."""
        self._on_link_failed(message.link, message.cause)

    def admit(self, link: str, source: KvLayout, tell: TellAdmissions) -> None:
        def answered(answer: PeerAdmitted | None, cause: str) -> None:
            tell(() if answer is None else answer.admissions)

        self._ask(AdmitPeer(link, source), PeerAdmitted, answered)

    def evict(self, link: str, then: Callable[[], None]) -> None:
        self._ask(EvictPeer(link), PeerClosed, lambda answer, cause: then())

    def connect(self, link: str, peer: PeerPool, on_result: TellSpeed) -> None:
        def answered(answer: PeerConnected | None, cause: str) -> None:
            speed = None if answer is None else answer.speed
            on_result(speed or (cause if answer is None else answer.cause))

        self._traffic[link] = None
        self._ask(ConnectPeer(link, peer), PeerConnected, answered)

    def write(
        self,
        link: str,
        block_write: BlockWrite,
        on_done: OnWritten,
        latest_start: float = 0.0,
    ) -> None:
        def answered(answer: BlocksWritten | None, cause: str) -> None:
            if answer is None:
                now = time.monotonic()
                self._on_link_failed(link, cause)
                on_done(Written(now, now, cause=cause))
                return
            if link in self._traffic:
                self._traffic[link] = answer.traffic
            on_done(answer.written)

        self._ask(WriteBlocks(link, block_write, latest_start), BlocksWritten, answered)

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        self._traffic.pop(link, None)
        self._ask(DisconnectPeer(link), PeerClosed, lambda answer, cause: then())

    def traffic(self, link: str) -> Traffic | None:
        """As it was at the end of the last write."""
        return self._traffic.get(link)

    def start_digest(
        self, source: KvLayout, pages: Sequence[int], first: int
    ) -> Future[BlocksChecksum]:
        return self._calls.call(ChecksumBlocks(source, tuple(pages), first), BlocksChecksum)

    def stop(self) -> None:
        """It ends with its process."""

    def _ask(
        self,
        message: msgspec.Struct,
        answer_type: type[T],
        answered: Callable[[T | None, str], None],
    ) -> None:
        def settled(future: Future[T]) -> None:
            error = future.exception()
            if error is None:
                answered(future.result(), "")
                return
            log.warning("%s: %s", type(message).__name__, error)
            answered(None, str(error))

        self._calls.call(message, answer_type).add_done_callback(settled)
