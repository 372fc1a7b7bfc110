"""A transport copies blocks from one worker's memory into another's, one-sidedly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kv_transfer.layout.region import CacheRegion
from wire.reports import Traffic

if TYPE_CHECKING:
    from kv_transfer.layout.spans import Offsets


class PostedTransfer(Protocol):
    """One write under way."""

    def done(self) -> bool:
        """Has the last byte arrived? Raises LinkFailed when nobody knows any more.

        An error does not mean that the fabric has stopped writing: see `Transport.disconnect`
        and `Transport.evict`.
        """
        ...


class Transport(Protocol):
    """Owned by one thread. Links are named by whoever makes them; no name is ever used twice.

    Each peer has a link of its own, in either direction, which can be torn down without the
    others' noticing. That is what makes memory safe to use again when a peer is dead, stopped or
    confused: the end that owns the memory closes its end of the link.
    """

    name: str

    @property
    def direct_access(self) -> bool:
        """Whether a peer process on this host may write into our memory by itself."""
        ...

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        """Our memory; once, before anything else. Peers write to `pool` and read neither."""
        ...

    def admit(self, peer: str) -> bytes:
        """Open our pool to one peer. Returns what it must be given to `connect`.

        An earlier admission of the same peer ends.
        """
        ...

    def evict(self, peer: str) -> None:
        """Close our pool to a peer. Idempotent.

        When it returns, nothing that the peer has sent through the fabric lands any more. (A peer
        with direct access to our memory must have ended as well, or have said that it is quiet.)
        """
        ...

    def connect(self, peer: str, admission: bytes) -> None:
        """Learn a peer's pool. Raises BadPeer or LinkFailed; no link is left then."""
        ...

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> PostedTransfer:
        """Start copying our blocks[i] over the peer's block pages[i]. Raises LinkFailed.

        Blocks must be of one size on both sides, or else BadPeer is raised.
        """
        ...

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> PostedTransfer:
        """Start copying spans, int64 [n, 3]: our offset, the offset in the peer's pool, bytes.

        Ours count from the start of our pool, or of our staging memory if `staged`. Raises
        LinkFailed.
        """
        ...

    def disconnect(self, peer: str) -> None:
        """End a link and all writes over it. Idempotent.

        When it returns, nothing reads our memory any more; what has left may still arrive.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class CountsTraffic(Protocol):
    """What a `kv_transfer.transports.transport.Transport` may implement besides."""

    def traffic(self, peer: str) -> Traffic | None:
        """Since the link was made, its measuring included; None for a link that is not there.

        May be called from any thread.
        """
        ...


def traffic_of(transport: Transport, names: Sequence[str]) -> Traffic | None:
    """Over all these parts of a link; None where the transport does not count it."""
    if not isinstance(transport, CountsTraffic):
        return None
    return together(transport.traffic(name) for name in names)


def together(parts: Iterable[Traffic | None]) -> Traffic | None:
    """All parts of a link as one; None where one of them is unknown, or there is none."""
    counted = list(parts)
    known = [part for part in counted if part is not None]
    if len(known) < max(1, len(counted)):
        return None
    return Traffic(
        num_writes=sum(part.num_writes for part in known),
        num_bytes=sum(part.num_bytes for part in known),
        num_descriptors=sum(part.num_descriptors for part in known),
        post_s=sum(part.post_s for part in known),
        fabric_s=sum(part.fabric_s for part in known),
    )
