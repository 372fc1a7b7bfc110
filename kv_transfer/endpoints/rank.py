"""One rank's end of all links: its pool of blocks, its staging memory and its transfer thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kv_transfer.device_thread import bind_thread
from kv_transfer.endpoints.endpoint import (
    OnAdmitted,
    OnCrash,
    OnLinkFailed,
    OnSpeed,
    PeerPool,
)
from kv_transfer.endpoints.staged_writes import SlotQuota, StagedWrites, StagingSlots
from kv_transfer.endpoints.transfer_thread import TransferThread
from kv_transfer.endpoints.write_path import InPlaceWrites, OnWritten, RankPath, WritePath
from kv_transfer.errors import BadPeer
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import Checksum, ComputeChecksum, checksum_seed
from kv_transfer.layout.head_routes import RankPair, rank_pairs
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.probe import LinkSpeed, Probe, Scratch, as_one, probe_link
from kv_transfer.transports.transport import Transport
from wire.layout import KvLayout
from wire.reports import Traffic

NUM_STAGING_SLOTS = 4
MAX_PART_BYTES = 32 * 1024 * 1024

if TYPE_CHECKING:
    from kv_transfer.layout.checksum_stream import ChecksumStream

StartProbe = Callable[[Transport, str, Scratch], Probe]


class RankEndpoint:
    """Implements `Endpoint` for a worker's only rank, or one of several.

    `layout` is the worker's, over all ranks. `pool` has `num_blocks` blocks in use and one more for
    measuring links; it and `staging` are registered with the transport. `checksum` computes the
    sum of checksums of whole blocks of the pool, as in kv_transfer.layout.checksum.
    """

    def __init__(
        self,
        layout: KvLayout,
        rank: int,
        num_blocks: int,
        pool: CacheRegion,
        staging: CacheRegion,
        checksum: ComputeChecksum,
        transport: Transport,
        *,
        max_bytes_in_flight: int = 1 << 62,
        start_probe: StartProbe = probe_link,
    ) -> None:
        self.layout = layout
        self.rank = rank
        self._own = layout.of_rank(rank)
        self._num_blocks = num_blocks
        self._pool = pool
        self._staging = staging
        self._slots = StagingSlots(NUM_STAGING_SLOTS, staging.num_bytes // NUM_STAGING_SLOTS)
        self._checksum = checksum
        self._sums = _checksum_stream(pool.device)
        self._transport = transport
        self._max_blocks_in_flight = max_bytes_in_flight // self._own.block_bytes
        self._start_probe = start_probe

    @property
    def transport_name(self) -> str:
        return self._transport.name

    @property
    def direct_access(self) -> bool:
        return self._transport.direct_access

    def bind_thread(self) -> None:
        """Called first in every thread that uses this endpoint."""
        bind_thread(self._pool.device)

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        self.prepare(on_link_failed, on_crash)
        self.transfer_thread.start()

    def prepare(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        """Make the transfer thread without starting it: tests drive its turns by hand."""
        self.transfer_thread = TransferThread(
            self._transport,
            on_link_failed,
            on_crash,
            max_blocks_in_flight=self._max_blocks_in_flight,
            bind_thread=self.bind_thread,
        )

    def admit(self, link: str, source: KvLayout, on_admitted: OnAdmitted) -> None:
        names = [_name(link, pair.source_rank) for pair in self._pairs_from(source)]
        self.transfer_thread.admit(link, names, on_admitted)

    def evict(self, link: str, then: Callable[[], None]) -> None:
        self.transfer_thread.evict(link, then)

    def connect(self, link: str, peer: PeerPool, on_result: OnSpeed) -> None:
        pairs = rank_pairs(self.layout, peer.layout)
        if len(peer.admissions) != len(pairs):
            wanted = f"{len(pairs)} pairs of ranks"
            raise BadPeer(f"{link}: {len(peer.admissions)} admissions for {wanted}")
        admitted = zip(pairs, peer.admissions, strict=True)
        ours = [(pair, admission) for pair, admission in admitted if pair.source_rank == self.rank]
        num_heads = sum(len(pair.heads) for pair in pairs)
        shares = [len(pair.heads) / num_heads for pair, _ in ours]

        def on_speeds(found: Sequence[LinkSpeed] | str) -> None:
            on_result(found if isinstance(found, str) else as_one(found, shares))

        slots = SlotQuota(self._slots, NUM_STAGING_SLOTS // 2)
        paths = [self._path(link, pair, admission, peer, slots) for pair, admission in ours]
        self.transfer_thread.connect(link, paths, on_speeds)

    def write(
        self,
        link: str,
        block_write: BlockWrite,
        on_done: OnWritten,
        latest_start: float = 0.0,
    ) -> None:
        self.transfer_thread.write(link, block_write, on_done, latest_start)

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        self.transfer_thread.disconnect(link, then)

    def traffic(self, link: str) -> Traffic | None:
        return self.transfer_thread.traffic(link)

    def checksum(self, source: KvLayout) -> ComputeChecksum:
        """Computes this rank's part of the checksum of blocks."""
        parts = [pair.heads for pair in self._pairs_from(source)]
        if parts == [self._own.heads]:
            return self._checksum_whole
        from kv_transfer.layout.checksum_by_heads import checksum_by_heads

        return checksum_by_heads(self._pool, self._own, parts, self._sums)

    def stop(self) -> None:
        self.transfer_thread.stop()

    def _checksum_whole(self, blocks: Sequence[int], first: int) -> Checksum:
        return self._checksum(blocks, checksum_seed(first, self._own.heads))

    def _pairs_from(self, source: KvLayout) -> list[RankPair]:
        """The rank pairs by which a worker of that layout writes to this rank."""
        pairs = rank_pairs(source, self.layout)
        return [pair for pair in pairs if pair.destination_rank == self.rank]

    def _path(
        self, link: str, pair: RankPair, admission: bytes, peer: PeerPool, slots: SlotQuota
    ) -> RankPath:
        name = _name(link, pair.destination_rank)
        theirs = peer.layout.of_rank(pair.destination_rank)
        scratch = self._scratch(theirs, peer.num_blocks)
        write_path = self._write_path(theirs, pair.heads, slots)
        return RankPath(
            name, admission, write_path, lambda it: self._start_probe(it, name, scratch)
        )

    def _write_path(self, theirs: KvLayout, heads: range, slots: SlotQuota) -> WritePath:
        if self._own == theirs:
            return InPlaceWrites(theirs, self._checksum, MAX_PART_BYTES)
        from kv_transfer.layout.staging import Staging

        staging = Staging(self._pool, self._own, self._staging, self._sums)
        return StagedWrites(self._own, theirs, slots, staging.stage, heads)

    def _scratch(self, theirs: KvLayout, num_blocks: int) -> Scratch:
        """The blocks behind both pools, by which a link is measured."""
        own_bytes, their_bytes = self._own.block_bytes, theirs.block_bytes
        return Scratch(
            own_offset=self._num_blocks * own_bytes,
            their_offset=num_blocks * their_bytes,
            num_bytes=min(own_bytes, their_bytes),
            on_gpu=self._pool.device != "cpu",
        )


def _checksum_stream(device: str) -> ChecksumStream | None:
    """A stream for what is not summed where it lies; None for host memory."""
    if device == "cpu":
        return None
    import torch

    from kv_transfer.layout.checksum_stream import ChecksumStream

    return ChecksumStream(torch.device(device))


def _name(link: str, other_rank: int) -> str:
    """The name of a rank pair at one of its ends, for that end's transport."""
    return f"{link} {other_rank}" if other_rank else link
