"""The interface of a transport: one-sided writes from our memory into that of peers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kv_transfer.layout.region import CacheRegion
from wire.reports import Traffic

if TYPE_CHECKING:
    from kv_transfer.layout.spans import Offsets


class PostedTransfer(Protocol):
    """A write under way."""

    def done(self) -> bool:
        """Whether the last byte has arrived. Raises LinkFailed when that cannot be known any more.

        An error does not mean that the fabric has stopped writing: see `Transport.disconnect`
        and `Transport.evict`.
        """
        ...


class Transport(Protocol):
    """One rank's connections to ranks of other workers, its rank pairs; owned by one thread.

    `pair` names a rank pair at this end; its caller chooses the name, and uses none twice. A rank
    pair carries writes in one direction and can be torn down without any effect on others. So
    memory is safe to use again when a peer is dead, stopped or confused: the end that owns the
    memory closes its end of the rank pair.
    """

    name: str

    @property
    def direct_access(self) -> bool:
        """Whether a peer process on this host may write into our memory without our end's help."""
        ...

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        """Register our memory; called once, first. Peers write to `pool`, and read neither.

        Raises TransferError for memory that the transport cannot reach.
        """
        ...

    def admit(self, pair: str) -> bytes:
        """Open our pool to one peer rank. Returns the admission, which it passes to `connect`.

        An earlier admission by this name ends. Raises LinkFailed.
        """
        ...

    def evict(self, pair: str) -> None:
        """Close our pool to a peer rank. Idempotent.

        When it returns, nothing that the peer has sent through the fabric lands any more. (A peer
        with direct access to our memory must have ended as well, or have said that it is quiet.)
        """
        ...

    def connect(self, pair: str, admission: bytes) -> None:
        """Connect to a peer's pool. Raises BadPeer or LinkFailed; nothing is connected then."""
        ...

    def write(
        self, pair: str, blocks: Sequence[int], remote_blocks: Sequence[int]
    ) -> PostedTransfer:
        """Start copying our blocks[i] over the peer's remote_blocks[i]. Raises LinkFailed.

        Blocks must be of one size on both sides, or else BadPeer is raised.
        """
        ...

    def write_spans(self, pair: str, spans: Offsets, *, staged: bool) -> PostedTransfer:
        """Start copying spans, int64 [n, 3]: our offset, the offset in the peer's pool, bytes.

        Our offsets are from the start of our pool, or of our staging memory if `staged`. Raises
        LinkFailed.
        """
        ...

    def disconnect(self, pair: str) -> None:
        """Disconnect from a peer's pool; ends all writes over the rank pair. Idempotent.

        When it returns, nothing reads our memory any more; bytes that were sent may still arrive.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class CountsTraffic(Protocol):
    """A transport that also counts its traffic."""

    def traffic(self, pair: str) -> Traffic | None:
        """Traffic since `connect`, probes included; None for an unknown rank pair. Thread-safe."""
        ...


def traffic_of(transport: Transport, names: Sequence[str]) -> Traffic | None:
    """Traffic over all these rank pairs; None where the transport does not count it."""
    if not isinstance(transport, CountsTraffic):
        return None
    return together(transport.traffic(name) for name in names)


def together(parts: Iterable[Traffic | None]) -> Traffic | None:
    """The sum of traffic over several rank pairs; None where one is unknown, or there is none."""
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
