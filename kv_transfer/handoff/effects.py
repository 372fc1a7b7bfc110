"""Effects: what the handoff's state machines ask their host to do."""

from __future__ import annotations

from dataclasses import dataclass

from kv_transfer.layout.block_write import BlockWrite
from wire.handoff import Commit, Handoff


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message to the other end of the handoff."""

    message: Handoff


@dataclass(frozen=True, slots=True)
class Write:
    """Source: start this write; when it has ended, call `wrote` or `write_failed`."""

    write_id: int
    block_write: BlockWrite


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Source: the destination has verified the blocks and runs the sequence now."""


@dataclass(frozen=True, slots=True)
class NotHandedOver:
    """Source: the sequence is still ours, with all its blocks.

    `ambiguous` is true when the destination may have accepted the sequence unknown to the source:
    then continuing here could run it twice.
    """

    cause: str
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class SourceClosed:
    """Source: no write reads the attempt's blocks any more; they may be reused."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Destination: compute the checksum of these blocks, of which the first is block `first` of the
    sequence; then call `checksummed`."""

    blocks: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """Destination: run this sequence; `blocks` hold the cache of all its tokens but the new ones.

    Where the offer was `prefix_only`, keep the blocks in the prefix cache instead.
    """

    commit: Commit
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FreeBlocks:
    """Destination: nothing can be written into these blocks any more; they may be reused."""

    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """Destination: the handoff ended before the sequence was ours."""

    cause: str


@dataclass(frozen=True, slots=True)
class CutLink:
    """Either end: writes do not end in time, or the peer does not confirm that they have ended.

    End the session with the peer, and with it the link and every attempt that uses it.
    """

    cause: str


Effect = (
    Send
    | Write
    | HandedOver
    | NotHandedOver
    | SourceClosed
    | Verify
    | Adopt
    | FreeBlocks
    | AttemptLost
    | CutLink
)
