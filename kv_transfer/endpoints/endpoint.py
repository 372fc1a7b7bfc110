"""One worker's end of all its links, however many ranks it has, as those who decide see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from kv_transfer.endpoints.write_path import OnWritten
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import ComputeChecksum
from kv_transfer.transports.probe import LinkSpeed
from wire.layout import KvLayout
from wire.reports import Traffic

OnLinkFailed = Callable[[str, str], None]
OnCrash = Callable[[Exception], None]
TellAdmissions = Callable[[tuple[bytes, ...]], None]
TellSpeed = Callable[[LinkSpeed | str], None]


class PeerPool(msgspec.Struct, frozen=True):
    """What a worker tells of its memory to one that will write there."""

    layout: KvLayout
    num_blocks: int
    """Those that are in use; the one behind them is for measuring."""
    admissions: tuple[bytes, ...]
    """One for each of the link's rank pairs, in the order of
    kv_transfer.layout.head_routes.rank_pairs."""


class Endpoint(Protocol):
    """Methods but `checksum` and `stop` never block, and may be called from any thread.

    A link is between two workers; it consists of rank pairs, one for each pair of ranks of which
    one feeds the other. It fails when one of its rank pairs fails: then all are torn down, and
    `on_link_failed(link, cause)` is told before any of its writes ends.
    """

    @property
    def layout(self) -> KvLayout:
        """The worker's, over all its ranks."""
        ...

    @property
    def transport_name(self) -> str: ...

    @property
    def direct_access(self) -> bool:
        """See kv_transfer.transports.transport.Transport."""
        ...

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        """`on_crash(error)` hears of what nobody expected; the worker should end then."""
        ...

    def admit(self, link: str, source: KvLayout, tell: TellAdmissions) -> None:
        """Open the pool to a worker of that layout: what `connect` is to be given there.

        Raises CannotExchange.
        """
        ...

    def evict(self, link: str, then: Callable[[], None]) -> None:
        """Close it; `then` is called when nothing sent over the link lands in any rank's memory."""
        ...

    def connect(self, link: str, peer: PeerPool, on_result: TellSpeed) -> None:
        """`on_result(speed)` when all rank pairs are connected and measured, `on_result(cause)`
        else.

        Raises CannotExchange, and BadPeer for another number of admissions.
        """
        ...

    def write(
        self,
        link: str,
        block_write: BlockWrite,
        on_done: OnWritten,
        latest_start: float = 0.0,
    ) -> None:
        """`on_done` is called once, when no rank reads the blocks on the write's behalf any more.

        Of the writes that wait for one link, the one with the earliest `latest_start` goes first.
        """
        ...

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        """Give up all writes over a link; `then` is called when they are over on every rank."""
        ...

    def traffic(self, link: str) -> Traffic | None:
        """What has gone over it; None where that is not counted."""
        ...

    def checksum(self, source: KvLayout) -> ComputeChecksum:
        """The checksum of pages that a worker of that layout has filled, on all ranks."""
        ...

    def stop(self) -> None: ...
