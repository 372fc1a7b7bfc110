"""What the rank that decides asks of a worker's other ranks, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import msgspec

from kv_transfer.endpoints.endpoint import PeerPool
from kv_transfer.endpoints.write_path import Written
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.transports.probe import LinkSpeed
from wire.layout import KvLayout
from wire.reports import Traffic


class AdmitPeer(msgspec.Struct, frozen=True):
    link: str
    source: KvLayout


class PeerAdmitted(msgspec.Struct, frozen=True):
    admissions: tuple[bytes, ...]


class EvictPeer(msgspec.Struct, frozen=True):
    link: str


class ConnectPeer(msgspec.Struct, frozen=True):
    link: str
    peer: PeerPool


class PeerConnected(msgspec.Struct, frozen=True):
    """`cause` says why not."""

    speed: LinkSpeed | None
    cause: str


class WriteBlocks(msgspec.Struct, frozen=True):
    link: str
    block_write: BlockWrite
    latest_start: float


class BlocksWritten(msgspec.Struct, frozen=True):
    written: Written
    traffic: Traffic | None
    """Of the link so far."""


class DisconnectPeer(msgspec.Struct, frozen=True):
    link: str


class PeerClosed(msgspec.Struct, frozen=True):
    """To EvictPeer and DisconnectPeer."""


class ChecksumBlocks(msgspec.Struct, frozen=True):
    source: KvLayout
    pages: tuple[int, ...]
    first: int


class BlocksChecksum(msgspec.Struct, frozen=True):
    checksum: int


class RankPairFailed(msgspec.Struct, frozen=True):
    """Unasked: a link's part that ends at this rank is torn down."""

    link: str
    cause: str


T = TypeVar("T", bound=msgspec.Struct)

Reply = Callable[[msgspec.Struct], None]
"""From any thread, once; of a message that wants no answer it does nothing."""
Handler = Callable[[Any, Reply], None]
"""Of a message in the rank that was called. It must not block; the reply may come later."""


class Calls(Protocol):
    """Another rank is spoken to in order, from any thread."""

    def call(self, message: msgspec.Struct, answer_type: type[T], /) -> Future[T]:
        """The future fails when the rank is dead, or could not do it."""
        ...
