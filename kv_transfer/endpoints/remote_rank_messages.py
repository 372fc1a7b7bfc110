"""The messages by which rank 0 calls the endpoints of a worker's other ranks, and the answers."""

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
    """The answer to ConnectPeer: the speed, or else the cause why there is no link."""

    speed: LinkSpeed | None
    cause: str


class WriteBlocks(msgspec.Struct, frozen=True):
    link: str
    block_write: BlockWrite
    latest_start: float


class BlocksWritten(msgspec.Struct, frozen=True):
    written: Written
    traffic: Traffic | None
    """Traffic over the link so far."""


class DisconnectPeer(msgspec.Struct, frozen=True):
    link: str


class PeerClosed(msgspec.Struct, frozen=True):
    """The answer to EvictPeer and DisconnectPeer."""


class ChecksumBlocks(msgspec.Struct, frozen=True):
    source: KvLayout
    blocks: tuple[int, ...]
    first: int


class BlocksChecksum(msgspec.Struct, frozen=True):
    checksum: int


class RankPairFailed(msgspec.Struct, frozen=True):
    """A notice, unasked: the rank pairs of a link that begin at this rank are torn down."""

    link: str
    cause: str


T = TypeVar("T", bound=msgspec.Struct)

Reply = Callable[[msgspec.Struct], None]
"""Answers a call; to be called once, from any thread."""
Handler = Callable[[Any, Reply], None]
"""(message, reply): carries out a call in the rank that was called. It must not block; the reply
may come later."""


class Calls(Protocol):
    """The line to another rank: messages arrive in order. Thread-safe."""

    def call(self, message: msgspec.Struct, answer_type: type[T], /) -> Future[T]:
        """The future fails when the rank is dead, or when it answers by an error."""
        ...
