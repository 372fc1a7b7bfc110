"""What the rank that decides asks of a worker's other ranks, and what they answer."""

from __future__ import annotations

import msgspec

from kv_transfer.courier import Written
from kv_transfer.crossing import Passage
from kv_transfer.endpoint import PeerPool
from kv_transfer.probe import LinkSpeed
from wire.layout import KvLayout
from wire.messages import Traffic


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
    """See kv_transfer.crossing.Passage; `layers` are the first, and the one behind the last."""

    link: str
    blocks: tuple[int, ...]
    pages: tuple[int, ...]
    num_tokens: int
    first_page: int
    layers: tuple[int, int] | None
    latest_start: float

    @staticmethod
    def of(link: str, passage: Passage, latest_start: float) -> WriteBlocks:
        layers = passage.layers
        return WriteBlocks(
            link,
            passage.blocks,
            passage.pages,
            passage.num_tokens,
            passage.first_page,
            None if layers is None else (layers.start, layers.stop),
            latest_start,
        )

    @property
    def passage(self) -> Passage:
        layers = None if self.layers is None else range(*self.layers)
        return Passage(self.blocks, self.pages, self.num_tokens, self.first_page, layers)


class BlocksWritten(msgspec.Struct, frozen=True):
    written: Written
    traffic: Traffic | None
    """Of the link so far."""


class DisconnectPeer(msgspec.Struct, frozen=True):
    link: str


class PeerClosed(msgspec.Struct, frozen=True):
    """To EvictPeer and DisconnectPeer."""


class DigestPages(msgspec.Struct, frozen=True):
    source: KvLayout
    pages: tuple[int, ...]
    first: int


class PagesDigest(msgspec.Struct, frozen=True):
    checksum: int


class StrandFailed(msgspec.Struct, frozen=True):
    """Unasked: a link's part that ends at this rank is torn down."""

    link: str
    cause: str
