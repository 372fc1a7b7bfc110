"""The errors of transfers.

TransferError
├── LinkFailed      the peer is dead or unreachable; its link must be disconnected
└── BadPeer         what the peer published cannot be used: damaged, or of another shape
"""

from __future__ import annotations


class TransferError(Exception):
    """Blocks cannot be transferred; the message names the peer."""


class LinkFailed(TransferError):
    """The peer is dead, or cannot be reached over the fabric."""


class BadPeer(TransferError):
    """The peer's published metadata cannot be used."""
