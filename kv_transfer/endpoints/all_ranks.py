"""The ranks of one worker as one endpoint: every call goes to all ranks that it concerns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from kv_transfer.endpoints.endpoint import (
    OnAdmitted,
    OnCrash,
    OnLinkFailed,
    OnSpeed,
    PeerPool,
)
from kv_transfer.endpoints.rank import RankEndpoint
from kv_transfer.endpoints.remote_rank import RemoteRank
from kv_transfer.endpoints.remote_rank_messages import BlocksChecksum
from kv_transfer.endpoints.when_all import when_all, when_all_ended
from kv_transfer.endpoints.write_path import OnWritten, Written
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import MASK, Checksum, ComputeChecksum, try_sum, wait_for
from kv_transfer.layout.head_routes import rank_pairs
from kv_transfer.transports.probe import LinkSpeed
from kv_transfer.transports.transport import together
from wire.layout import KvLayout
from wire.reports import Traffic

Rank = RankEndpoint | RemoteRank

CHECKSUM_S = 30.0
"""How long another rank may take to checksum blocks that have arrived."""


@dataclass(slots=True)
class _Link:
    """The ranks of ours that write over a link; `cause` is that of its first rank pair to fail."""

    ranks: tuple[Rank, ...]
    cause: str | None = None


class AllRanksEndpoint:
    """Implements `Endpoint` for rank 0 and the other ranks, in their order."""

    def __init__(self, own: RankEndpoint, others: Sequence[RemoteRank]) -> None:
        self.layout = own.layout
        self._own = own
        self._others = others
        self._ranks: tuple[Rank, ...] = (own, *others)
        self._links: dict[str, _Link] = {}

    @property
    def transport_name(self) -> str:
        return self._own.transport_name

    @property
    def direct_access(self) -> bool:
        return self._own.direct_access

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        self._on_link_failed = on_link_failed
        for rank in self._ranks:
            rank.start(self._link_failed, on_crash)

    def admit(self, link: str, source: KvLayout, on_admitted: OnAdmitted) -> None:
        def all_admitted(parts: list[tuple[bytes, ...]]) -> None:
            on_admitted(tuple(admission for part in parts for admission in part))

        for rank, admitted in zip(
            self._ranks, when_all(len(self._ranks), all_admitted), strict=True
        ):
            rank.admit(link, source, admitted)

    def evict(self, link: str, then: Callable[[], None]) -> None:
        for rank, ended in zip(self._ranks, when_all_ended(len(self._ranks), then), strict=True):
            rank.evict(link, ended)

    def connect(self, link: str, peer: PeerPool, on_result: OnSpeed) -> None:
        sources = {pair.source_rank for pair in rank_pairs(self.layout, peer.layout)}
        ranks = tuple(self._ranks[number] for number in sorted(sources))
        self._links[link] = opened = _Link(ranks)

        def all_measured(found: list[LinkSpeed | str]) -> None:
            on_result(_slowest(found, opened.cause))

        for rank, measured in zip(ranks, when_all(len(ranks), all_measured), strict=True):
            rank.connect(link, peer, measured)

    def write(
        self,
        link: str,
        block_write: BlockWrite,
        on_done: OnWritten,
        latest_start: float = 0.0,
    ) -> None:
        found = self._links.get(link)
        if found is None:
            now = time.monotonic()
            on_done(Written(now, now, cause=f"{link} is not connected"))
            return

        def all_ended(parts: list[Written]) -> None:
            on_done(_whole(parts, found.cause))

        for rank, ended in zip(found.ranks, when_all(len(found.ranks), all_ended), strict=True):
            rank.write(link, block_write, ended, latest_start)

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        self._tear_down(link, then)
        self._links.pop(link, None)

    def traffic(self, link: str) -> Traffic | None:
        return together(rank.traffic(link) for rank in self._ranks_of(link))

    def checksum(self, source: KvLayout) -> ComputeChecksum:
        """The other ranks read their blocks while this rank reads its own."""
        own = self._own.checksum(source)

        def checksum(blocks: Sequence[int], first: int) -> Checksum:
            answers = [rank.start_checksum(source, blocks, first) for rank in self._others]
            return RanksChecksum(own(blocks, first), answers, len(blocks))

        return checksum

    def stop(self) -> None:
        for rank in self._ranks:
            rank.stop()

    def _link_failed(self, link: str, cause: str) -> None:
        """Called in any thread, for each rank pair that fails; the first tears down the others."""
        failed = self._links.get(link)
        if failed is not None and failed.cause is None:
            failed.cause = cause
        self._on_link_failed(link, cause)
        self._tear_down(link, _nothing)

    def _ranks_of(self, link: str) -> tuple[Rank, ...]:
        found = self._links.get(link)
        return () if found is None else found.ranks

    def _tear_down(self, link: str, then: Callable[[], None]) -> None:
        ranks = self._ranks_of(link)
        if not ranks:
            then()
        for rank, ended in zip(ranks, when_all_ended(len(ranks), then), strict=True):
            rank.disconnect(link, ended)


class RanksChecksum:
    """Implements `kv_transfer.layout.checksum.PendingChecksum`: the sum over all ranks.

    Raises TimeoutError, and the errors by which other ranks answer.
    """

    def __init__(
        self, own: Checksum, others: Sequence[Future[BlocksChecksum]], num_blocks: int
    ) -> None:
        self._own = own
        self._others = others
        self._num_blocks = num_blocks
        self._deadline = time.monotonic() + CHECKSUM_S

    def try_sum(self) -> int | None:
        if not all(answer.done() for answer in self._others):
            if time.monotonic() < self._deadline:
                return None
        elif try_sum(self._own) is None:
            return None
        return self.wait()

    def wait(self) -> int:
        others = [self._awaited(rank, answer) for rank, answer in enumerate(self._others, 1)]
        return (wait_for(self._own) + sum(others)) & MASK

    def _awaited(self, rank: int, answer: Future[BlocksChecksum]) -> int:
        try:
            return answer.result(max(0.0, self._deadline - time.monotonic())).checksum
        except TimeoutError as error:
            late = f"rank {rank} has not read {self._num_blocks} blocks within {CHECKSUM_S:g} s"
            raise TimeoutError(late) from error


def _slowest(found: Sequence[LinkSpeed | str], failure: str | None) -> LinkSpeed | str:
    """A link's speed, or the cause of its failure, from what its ranks have found.

    Each rank measures what the link would give if all ranks were like it. When one has failed, the
    others only know that their rank pairs were torn down.
    """
    speeds = [speed for speed in found if isinstance(speed, LinkSpeed)]
    if len(speeds) < len(found):
        return failure or next(cause for cause in found if isinstance(cause, str))
    rate = min(speed.bytes_per_s for speed in speeds)
    return LinkSpeed(max(speed.latency_s for speed in speeds), rate)


def _whole(parts: Sequence[Written], failure: str | None) -> Written:
    """The end of a write, from its ends at all ranks; `failure` is why the link failed."""
    written = Written.together(parts)
    if written.cause is None or failure is None:
        return written
    return msgspec.structs.replace(written, cause=failure)


def _nothing() -> None: ...
