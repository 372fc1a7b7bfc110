"""What the handoff's state machines want done; their host does it, and tells them how it went."""

from __future__ import annotations

from dataclasses import dataclass

from wire.handoff import Commit, Handoff


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message to the other end of the handoff."""

    message: Handoff


@dataclass(frozen=True, slots=True)
class Write:
    """Copy local blocks into the destination's pages, pairwise; then call wrote or write_failed."""

    write_id: int
    blocks: tuple[int, ...]
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Source: the destination has verified the blocks and runs the sequence now."""


@dataclass(frozen=True, slots=True)
class NotHandedOver:
    """Source: the sequence is still ours, with all its blocks.

    `ambiguous` is true when the destination may have accepted without our hearing of it; then
    continuing here could run the sequence twice.
    """

    cause: str
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class SourceClosed:
    """Source: no write of this leg is or will be outstanding; its blocks may be reused."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Destination: run this sequence; `blocks` hold the cache of all its tokens but the last."""

    commit: Commit
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FreePages:
    """Destination: nothing can be written into these blocks any more; they may be reused."""

    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LegLost:
    """Destination: the handoff ended before the sequence was ours."""

    cause: str


Effect = Send | Write | HandedOver | NotHandedOver | SourceClosed | Adopt | FreePages | LegLost
