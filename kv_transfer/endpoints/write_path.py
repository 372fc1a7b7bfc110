"""How blocks of ours become pages of one peer: as they lie, or converted in staging first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kv_transfer.layout.checksum import ComputeChecksum, checksum_seed
from kv_transfer.layout.head_routes import CannotExchange, check_exchange
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.layout.spans import Offsets, block_spans
from kv_transfer.transports.transport import PostedTransfer, Transport
from wire.layout import KvLayout


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Copy `num_tokens` tokens from the start of `blocks` to the start of `pages`.

    `first_page` is the place of pages[0] in the sequence. `layers` are those that travel now, None
    stands for all; the last layer of a page comes last, and completes it.
    """

    blocks: tuple[int, ...]
    pages: tuple[int, ...]
    num_tokens: int
    first_page: int
    layers: range | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """A block write under way; `release` is to be called when it has ended, however it did."""

    transfer: PostedTransfer
    checksum: int
    release: Callable[[], None]


class WritePath(Protocol):
    """Between one pair of ranks."""

    def parts(self, block_write: BlockWrite) -> Iterator[BlockWrite]:
        """The same in block writes none of which is too large."""
        ...

    def try_post(self, transport: Transport, link: str, part: BlockWrite) -> Posted | None:
        """Start a part; None when there is no room for it now. Raises TransferError."""
        ...


class InPlaceWrites:
    """Layouts are equal: blocks are written from where they lie."""

    def __init__(self, layout: KvLayout, checksum: ComputeChecksum, max_part_bytes: int) -> None:
        self._layout = layout
        self._checksum = checksum
        self._max_blocks = max(1, max_part_bytes // layout.block_bytes)

    def parts(self, block_write: BlockWrite) -> Iterator[BlockWrite]:
        size = self._layout.block_size
        return split_write(block_write, size, size, self._max_blocks)

    def try_post(self, transport: Transport, link: str, part: BlockWrite) -> Posted | None:
        if part.layers is None:
            transfer = transport.write(link, part.blocks, part.pages)
        else:
            transfer = transport.write_spans(link, self._spans(part), staged=False)
        return Posted(transfer, self._checksum_of(part), _nothing)

    def _checksum_of(self, part: BlockWrite) -> int:
        """Of whole pages, which a part of them is not: it counts once they are complete."""
        complete = part.layers is None or part.layers.stop == self._layout.num_layers
        first = checksum_seed(part.first_page, self._layout.heads)
        return self._checksum(part.blocks, first) if complete else 0

    def _spans(self, part: BlockWrite) -> Offsets:
        assert part.layers is not None
        size = self._layout.layer_bytes
        layers = slice(part.layers.start * size, part.layers.stop * size)
        return block_spans(part.blocks, part.pages, self._layout.block_bytes, layers)


WORD_BYTES = 8
"""A device's checksum reads words, and can do so only from a whole one on."""


class StagingSlots:
    """Staging memory in equal slots, each of whole words; who gets none waits."""

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes // WORD_BYTES * WORD_BYTES
        self._free = list(range(num_slots))

    def try_take(self) -> int | None:
        return self._free.pop() if self._free else None

    def give_back(self, slot: int) -> None:
        self._free.append(slot)


class SlotQuota:
    """Of a room, at most so many slots: a link that stands still leaves some to the others."""

    def __init__(self, room: StagingSlots, max_slots: int) -> None:
        self.slot_bytes = room.slot_bytes
        self._room = room
        self._slots_left = max_slots

    def try_take(self) -> int | None:
        slot = self._room.try_take() if self._slots_left else None
        if slot is not None:
            self._slots_left -= 1
        return slot

    def give_back(self, slot: int) -> None:
        self._slots_left += 1
        self._room.give_back(slot)


Stage = Callable[[Sequence[int], int, KvLayout, int, int], int]
"""(blocks, num_tokens, layout, offset, first) -> checksum: write the tokens into staging at
`offset`, as blocks of `layout`, the first of which has the place `first`."""


class StagedWrites:
    """Layouts differ: pages are made in staging, and written from there.

    `heads` are those that this rank feeds to that one, None stands for all. Those of a whole page
    travel in one piece, a part of them layer by layer. Raises CannotExchange when no page could be
    made, or does not fit a slot.
    """

    def __init__(
        self,
        ours: KvLayout,
        theirs: KvLayout,
        room: StagingSlots | SlotQuota,
        stage: Stage,
        heads: range | None = None,
    ) -> None:
        check_exchange(ours, theirs)
        heads = theirs.heads if heads is None else heads
        made = staging_layout(theirs, heads)
        unit = max(ours.block_size, theirs.block_size)
        unit_bytes = made.num_blocks(unit) * made.block_bytes
        if not _among(heads, ours.heads) or not _among(heads, theirs.heads):
            raise CannotExchange(f"KV heads {heads} of {ours.heads} here, {theirs.heads} there")
        if unit_bytes > room.slot_bytes:
            raise CannotExchange(f"{unit_bytes} bytes do not fit a slot of {room.slot_bytes}")
        self._ours = ours
        self._theirs = theirs
        self._made = made
        self._room = room
        self._stage = stage
        self._max_tokens = room.slot_bytes // unit_bytes * unit

    def parts(self, block_write: BlockWrite) -> Iterator[BlockWrite]:
        ours, theirs = self._ours.block_size, self._theirs.block_size
        return split_write(block_write, ours, theirs, self._max_tokens // ours)

    def try_post(self, transport: Transport, link: str, part: BlockWrite) -> Posted | None:
        slot = self._room.try_take()
        if slot is None:
            return None
        start, made = slot * self._room.slot_bytes, self._made
        first = checksum_seed(part.first_page, made.heads)
        try:
            checksum = self._stage(part.blocks, part.num_tokens, made, start, first)
            spans = self._spans(start, part.pages)
            transfer = transport.write_spans(link, spans, staged=True)
        except BaseException:
            self._room.give_back(slot)
            raise
        return Posted(transfer, checksum, lambda: self._room.give_back(slot))

    def _spans(self, start: int, pages: tuple[int, ...]) -> Offsets:
        """What was made lies in order, from `start` on in staging."""
        made, theirs = self._made, self._theirs
        if made.heads == theirs.heads:
            spans = block_spans(range(len(pages)), pages, theirs.block_bytes)
        else:
            num_slots = len(pages) * theirs.block_size
            spans = plan(made, theirs, made.heads).spans(range(len(pages)), pages, num_slots)
        spans[:, 0] += start
        return spans


def _among(heads: range, held: range) -> bool:
    return held.start <= heads.start and heads.stop <= held.stop


def split_write(
    block_write: BlockWrite, block_size: int, page_size: int, max_blocks: int
) -> Iterator[BlockWrite]:
    """Parts of at most `max_blocks` blocks, which fill whole pages."""
    max_tokens = max_blocks * block_size
    for start in range(0, block_write.num_tokens, max_tokens):
        end = min(start + max_tokens, block_write.num_tokens)
        first = start // page_size
        yield replace(
            block_write,
            blocks=block_write.blocks[start // block_size : -(-end // block_size)],
            pages=block_write.pages[first : -(-end // page_size)],
            num_tokens=end - start,
            first_page=block_write.first_page + first,
        )


def _nothing() -> None: ...
