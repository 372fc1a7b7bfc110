"""How one rank's blocks reach one rank of a peer, and the parts of writes that go this way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from kv_transfer.layout.block_write import BlockWrite, split_write
from kv_transfer.layout.checksum import (
    MASK,
    Checksum,
    ComputeChecksum,
    checksum_seed,
    try_sum,
    wait_for,
)
from kv_transfer.layout.spans import Offsets, block_spans
from kv_transfer.transports.probe import Probe
from kv_transfer.transports.transport import PostedTransfer, Transport
from wire.layout import KvLayout


class Written(msgspec.Struct, frozen=True):
    """How a write, or a part of one, ended; with a `cause` it was given up.

    Times are seconds of the transfer thread's clock. `checksum` is that of the remote blocks which
    were filled.
    """

    started: float
    ended: float
    checksum: int = 0
    cause: str | None = None

    @staticmethod
    def together(parts: Sequence[Written]) -> Written:
        """A write is over when its last part is, and has failed when any part has."""
        return Written(
            min(part.started for part in parts),
            max(part.ended for part in parts),
            sum(part.checksum for part in parts) & MASK,
            next((part.cause for part in parts if part.cause is not None), None),
        )


OnWritten = Callable[[Written], None]


class WritePath(Protocol):
    """Turns block writes into transfers from a rank of ours to a rank of the peer's."""

    def split(self, block_write: BlockWrite) -> Iterator[BlockWrite]:
        """The parts of a block write, none of which is too large for one transfer."""
        ...

    def try_post(self, transport: Transport, part: WritePart) -> bool:
        """Start a part's transfer; false when there is no room for it now. Raises TransferError."""
        ...


@dataclass(frozen=True, slots=True)
class RankPath:
    """Our end of a rank pair; `name` is the transport's for the connection."""

    name: str
    admission: bytes
    write_path: WritePath
    start_probe: Callable[[Transport], Probe]


@dataclass(slots=True, eq=False)
class WritePart:
    """A part of a write over one rank pair: it waits for room, and then its transfer is under way.

    `on_done` is called once, when nothing reads the blocks on the part's behalf any more. Parts
    with an earlier `latest_start` (seconds of the transfer thread's clock) go first.
    """

    link: str
    path: RankPath
    block_write: BlockWrite
    on_done: OnWritten
    latest_start: float = 0.0
    started: float | None = None
    transfer: PostedTransfer | None = None
    """Set by `WritePath.try_post`, as are the two below."""
    checksum: Checksum = 0
    release: Callable[[], None] | None = None
    """Gives back what the transfer holds besides the blocks."""

    def try_arrive(self) -> bool:
        """Whether the last byte has arrived, and nothing here reads the blocks any more. Raises
        LinkFailed, see PostedTransfer."""
        assert self.transfer is not None
        return self.transfer.done() and try_sum(self.checksum) is not None

    def end(self, now: float, cause: str | None = None) -> None:
        """A part that is given up still waits for its checksum, whose kernels read the blocks."""
        checksum = wait_for(self.checksum)
        if self.release is not None:
            self.release()
        started = now if self.started is None else self.started
        self.on_done(Written(started, now, checksum if cause is None else 0, cause))


class InPlaceWrites:
    """The write path where layouts are equal: blocks are written from where they lie."""

    def __init__(self, layout: KvLayout, checksum: ComputeChecksum, max_part_bytes: int) -> None:
        self._layout = layout
        self._checksum = checksum
        self._max_blocks = max(1, max_part_bytes // layout.block_bytes)

    def split(self, block_write: BlockWrite) -> Iterator[BlockWrite]:
        size = self._layout.block_size
        return split_write(block_write, size, size, self._max_blocks)

    def try_post(self, transport: Transport, part: WritePart) -> bool:
        name, write = part.path.name, part.block_write
        if write.layers is None:
            part.transfer = transport.write(name, write.blocks, write.remote_blocks)
        else:
            spans = self._spans(write, *write.layers)
            part.transfer = transport.write_spans(name, spans, staged=False)
        part.checksum = self._checksum_of(write)
        return True

    def _checksum_of(self, write: BlockWrite) -> Checksum:
        """Blocks are checked whole: those that arrive by layers count once they are complete."""
        complete = write.layers is None or write.layers[1] == self._layout.num_layers
        first = checksum_seed(write.first_remote_block, self._layout.heads)
        return self._checksum(write.blocks, first) if complete else 0

    def _spans(self, write: BlockWrite, first: int, end: int) -> Offsets:
        size = self._layout.layer_bytes
        layers = slice(first * size, end * size)
        return block_spans(write.blocks, write.remote_blocks, self._layout.block_bytes, layers)
