"""What carries blocks from one worker's memory into another's, one-sidedly.

TransferError
├── LinkFailed      the peer is dead or unreachable; its link must be disconnected
└── BadPeer         what the peer published cannot be used: damaged, or of another shape
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kv_transfer.region import CacheRegion


class TransferError(Exception):
    """Anything that keeps blocks from travelling. Names the peer."""


class LinkFailed(TransferError):
    """The peer is gone, or the fabric lost it."""


class BadPeer(TransferError):
    """The peer's published metadata cannot be used."""


class Transfer(Protocol):
    """One write under way."""

    def done(self) -> bool:
        """Has the last byte arrived? Raises LinkFailed when it never will."""
        ...


class Transport(Protocol):
    """Owned by one thread. Peers are named by `str(WorkerRef)`, so no name is ever used twice."""

    name: str

    def register(self, region: CacheRegion, num_blocks: int) -> None:
        """Make the pool reachable for peers; once, before anything else."""
        ...

    def metadata(self) -> bytes:
        """What peers need in order to connect; travels over the control plane."""
        ...

    def connect(self, peer: str, metadata: bytes) -> None:
        """Learn a peer's pool. Idempotent. Raises BadPeer or LinkFailed."""
        ...

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> Transfer:
        """Start copying local blocks[i] over the peer's block pages[i]. Raises LinkFailed."""
        ...

    def disconnect(self, peer: str) -> None:
        """Forget a peer. Idempotent; other peers notice nothing."""
        ...

    def close(self) -> None: ...
