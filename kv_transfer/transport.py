"""What carries blocks from one worker's memory into another's, one-sidedly.

TransferError
├── LinkFailed      the peer is dead or unreachable; its link must be disconnected
└── BadPeer         what the peer published cannot be used: damaged, or of another shape
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from kv_transfer.region import CacheRegion

if TYPE_CHECKING:
    from kv_transfer.reshard import Offsets


class TransferError(Exception):
    """Anything that keeps blocks from travelling. Names the peer."""


class LinkFailed(TransferError):
    """The peer is gone, or the fabric lost it."""


class BadPeer(TransferError):
    """The peer's published metadata cannot be used."""


class Transfer(Protocol):
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

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> Transfer:
        """Start copying our blocks[i] over the peer's block pages[i]. Raises LinkFailed.

        Blocks must be of one size on both sides, or else BadPeer is raised.
        """
        ...

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> Transfer:
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
