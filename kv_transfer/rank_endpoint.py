"""One rank's end of all links: its pool, its staging memory, and the courier of its transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv_transfer.checksum import Digest, place_of
from kv_transfer.courier import Courier, Way, WriteJob
from kv_transfer.crossing import (
    Crossing,
    DirectCrossing,
    StagedCrossing,
    StagingRoom,
    StagingShare,
)
from kv_transfer.endpoint import OnCrash, OnLinkFailed, PeerPool, TellAdmissions, TellSpeed
from kv_transfer.exchange import Strand, strands
from kv_transfer.probe import LinkSpeed, Probe, Scratch, as_one, probe_link
from kv_transfer.region import CacheRegion
from kv_transfer.transport import BadPeer, Transport
from wire.layout import KvLayout
from wire.messages import Traffic

NUM_STAGING_SLOTS = 4
MAX_PART_BYTES = 32 * 1024 * 1024

StartProbe = Callable[[Transport, str, Scratch], Probe]


class RankEndpoint:
    """Implements `kv_transfer.endpoint.Endpoint` for a worker's only rank, or one of several.

    `layout` is the worker's; `pool` has `num_blocks` blocks, and one for measuring behind them, and
    is registered with the transport. `digest` is that of kv_transfer.checksum, of whole blocks.
    """

    def __init__(
        self,
        layout: KvLayout,
        rank: int,
        num_blocks: int,
        pool: CacheRegion,
        staging: CacheRegion,
        digest: Digest,
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
        self._room = StagingRoom(NUM_STAGING_SLOTS, staging.num_bytes // NUM_STAGING_SLOTS)
        self._digest = digest
        self._transport = transport
        self._max_blocks_in_flight = max_bytes_in_flight // self._own.block_bytes
        self._start_probe = start_probe

    @property
    def transport_name(self) -> str:
        return self._transport.name

    @property
    def direct_access(self) -> bool:
        return self._transport.direct_access

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        self.prepare(on_link_failed, on_crash)
        self.courier.start()

    def prepare(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        """Without a thread, for those who drive the courier by hand."""
        self.courier = Courier(
            self._transport,
            on_link_failed,
            on_crash,
            max_blocks_in_flight=self._max_blocks_in_flight,
        )

    def admit(self, link: str, source: KvLayout, tell: TellAdmissions) -> None:
        ours = self._inward(source)
        self.courier.admit(link, [_name(link, strand.source_rank) for strand in ours], tell)

    def evict(self, link: str, then: Callable[[], None]) -> None:
        self.courier.evict(link, then)

    def connect(self, link: str, peer: PeerPool, on_result: TellSpeed) -> None:
        all_strands = strands(self.layout, peer.layout)
        if len(peer.admissions) != len(all_strands):
            wanted = f"{len(all_strands)} pairs of ranks"
            raise BadPeer(f"{link}: {len(peer.admissions)} admissions for {wanted}")
        pairs = zip(all_strands, peer.admissions, strict=True)
        ours = [(strand, admission) for strand, admission in pairs if self._feeds(strand)]
        num_heads = sum(len(strand.heads) for strand in all_strands)
        shares = [len(strand.heads) / num_heads for strand, _ in ours]

        def tell(found: Sequence[LinkSpeed] | str) -> None:
            on_result(found if isinstance(found, str) else as_one(found, shares))

        room = StagingShare(self._room, NUM_STAGING_SLOTS // 2)
        ways = [self._way(link, strand, admission, peer, room) for strand, admission in ours]
        self.courier.connect(link, ways, tell)

    def write(self, job: WriteJob) -> None:
        self.courier.write(job)

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        self.courier.disconnect(link, then)

    def traffic(self, link: str) -> Traffic | None:
        return self.courier.traffic(link)

    def digest(self, source: KvLayout) -> Digest:
        """Of this rank's pages."""
        feeds = [strand.heads for strand in self._inward(source)]
        if feeds == [self._own.heads]:
            return self._digest_whole
        from kv_transfer.received import digest_by_heads  # torch costs a second

        return digest_by_heads(self._pool, self._own, feeds)

    def stop(self) -> None:
        self.courier.stop()

    def _digest_whole(self, blocks: Sequence[int], first: int) -> int:
        return self._digest(blocks, place_of(first, self._own.heads))

    def _feeds(self, strand: Strand) -> bool:
        return strand.source_rank == self.rank

    def _inward(self, source: KvLayout) -> list[Strand]:
        found = strands(source, self.layout)
        return [strand for strand in found if strand.destination_rank == self.rank]

    def _way(
        self, link: str, strand: Strand, admission: bytes, peer: PeerPool, room: StagingShare
    ) -> Way:
        name = _name(link, strand.destination_rank)
        theirs = peer.layout.of_rank(strand.destination_rank)
        scratch = self._scratch(theirs, peer.num_blocks)
        crossing = self._crossing(theirs, strand.heads, room)
        return Way(name, admission, crossing, lambda it: self._start_probe(it, name, scratch))

    def _crossing(self, theirs: KvLayout, heads: range, room: StagingShare) -> Crossing:
        if self._own == theirs:
            return DirectCrossing(theirs, self._digest, MAX_PART_BYTES)
        from kv_transfer.staging import Staging  # torch costs a second that others need not pay

        staging = Staging(self._pool, self._own, self._staging)
        return StagedCrossing(self._own, theirs, room, staging.stage, heads)

    def _scratch(self, theirs: KvLayout, num_blocks: int) -> Scratch:
        """The blocks behind both pools."""
        own_bytes, their_bytes = self._own.block_bytes, theirs.block_bytes
        return Scratch(
            own_offset=self._num_blocks * own_bytes,
            their_offset=num_blocks * their_bytes,
            num_bytes=min(own_bytes, their_bytes),
        )


def _name(link: str, other_rank: int) -> str:
    """Of a strand, for the transport of one of its ranks."""
    return f"{link} {other_rank}" if other_rank else link
