"""The endpoint of another rank, as rank 0 calls it: every call becomes a message to that rank."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import msgspec

from kv_transfer.endpoints.endpoint import (
    OnAdmitted,
    OnCrash,
    OnLinkFailed,
    OnSpeed,
    PeerPool,
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
    """One rank's part of `kv_transfer.endpoints.endpoint.Endpoint`, in another process.

    A dead rank reads and writes nothing any more: all calls to it end.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._traffic: dict[str, Traffic | None] = {}

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        """`on_crash` is never called: a rank that crashes is noticed by its supervisor."""
        self._on_link_failed = on_link_failed

    def on_notice(self, message: RankPairFailed) -> None:
        """Called when the rank tells, unasked, that one of its rank pairs has failed."""
        self._on_link_failed(message.link, message.cause)

    def admit(self, link: str, source: KvLayout, on_admitted: OnAdmitted) -> None:
        def answered(answer: PeerAdmitted | None, cause: str) -> None:
            on_admitted(() if answer is None else answer.admissions)

        self._ask(AdmitPeer(link, source), PeerAdmitted, answered)

    def evict(self, link: str, then: Callable[[], None]) -> None:
        self._ask(EvictPeer(link), PeerClosed, lambda answer, cause: then())

    def connect(self, link: str, peer: PeerPool, on_result: OnSpeed) -> None:
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
        """Traffic over the link as it was at the end of the last write."""
        return self._traffic.get(link)

    def start_checksum(
        self, source: KvLayout, blocks: Sequence[int], first: int
    ) -> Future[BlocksChecksum]:
        return self._calls.call(ChecksumBlocks(source, tuple(blocks), first), BlocksChecksum)

    def stop(self) -> None:
        """Nothing to do: the rank's endpoint ends with its process."""

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
