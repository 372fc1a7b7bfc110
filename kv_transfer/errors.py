"""What keeps blocks from being transferred.

TransferError
├── LinkFailed      the peer is dead or unreachable; its link must be disconnected
└── BadPeer         what the peer published cannot be used: damaged, or of another shape
"""

from __future__ import annotations


class TransferError(Exception):
    """Anything that keeps blocks from travelling. Names the peer."""


class LinkFailed(TransferError):
    """The peer is gone, or the fabric lost it."""


class BadPeer(TransferError):
    """The peer's published metadata cannot be used."""
