"""The interface of an endpoint: one worker's end of all its links, however many ranks it has."""

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
"""(link, cause)"""
OnCrash = Callable[[Exception], None]
OnAdmitted = Callable[[tuple[bytes, ...]], None]
"""(admissions, which are fewer than the link's rank pairs where a rank admits nobody)"""
OnSpeed = Callable[[LinkSpeed | str], None]
"""(the link's speed, or the cause why there is no link)"""


class PeerPool(msgspec.Struct, frozen=True):
    """A worker's pool of blocks, as it is described to a worker that will write there."""

    layout: KvLayout
    num_blocks: int
    """Blocks in use; one more block behind them is for measuring links."""
    admissions: tuple[bytes, ...]
    """One for each of the link's rank pairs, in the order of
    kv_transfer.layout.head_routes.rank_pairs."""


class Endpoint(Protocol):
    """Methods other than `stop` never block, and are thread-safe. (The sum of blocks in host memory
    is computed at once.)

    A link connects two workers. It consists of rank pairs: connections from one rank of the source
    to one rank of the destination that needs some of its KV heads. A link fails when one of its
    rank pairs fails: then all are torn down, and `on_link_failed(link, cause)` is called before any
    of its writes ends. Callbacks are called in the endpoint's own threads.
    """

    @property
    def layout(self) -> KvLayout:
        """The layout of the worker's blocks, over all its ranks."""
        ...

    @property
    def transport_name(self) -> str: ...

    @property
    def direct_access(self) -> bool:
        """See kv_transfer.transports.transport.Transport."""
        ...

    def start(self, on_link_failed: OnLinkFailed, on_crash: OnCrash) -> None:
        """`on_crash(error)` is called with an error that nobody expected; the worker should end."""
        ...

    def admit(self, link: str, source: KvLayout, on_admitted: OnAdmitted) -> None:
        """Open the pool to a worker of layout `source`, which gives the admissions to `connect`.

        Raises CannotExchange.
        """
        ...

    def evict(self, link: str, then: Callable[[], None]) -> None:
        """Close the pool; `then` is called when nothing sent over the link can land any more."""
        ...

    def connect(self, link: str, peer: PeerPool, on_result: OnSpeed) -> None:
        """Connect and measure all rank pairs; `on_result` is called once.

        Raises CannotExchange, and BadPeer for a wrong number of admissions.
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
        """Traffic over the link so far; None where it is not counted."""
        ...

    def checksum(self, source: KvLayout) -> ComputeChecksum:
        """Computes checksums, over all ranks, of blocks that a worker of layout `source` filled."""
        ...

    def stop(self) -> None: ...
