"""Writes between two layouts: blocks are made in staging memory as the peer wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from kv_transfer.endpoints.write_path import WritePart
from kv_transfer.layout.block_write import BlockWrite, split_write
from kv_transfer.layout.checksum import Checksum, checksum_seed, try_sum
from kv_transfer.layout.head_routes import CannotExchange, check_exchange
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.layout.spans import Offsets, block_spans
from kv_transfer.transports.transport import PostedTransfer, Transport
from wire.layout import KvLayout

WORD_BYTES = 8
"""A device's checksum reads whole, aligned words."""


class StagingSlots:
    """The free list of staging memory, in equal slots of whole words."""

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes // WORD_BYTES * WORD_BYTES
        self._free = list(range(num_slots))

    def try_take(self) -> int | None:
        return self._free.pop() if self._free else None

    def give_back(self, slot: int) -> None:
        self._free.append(slot)


class SlotQuota:
    """At most `max_slots` of the staging slots: a link that stands still leaves some to others."""

    def __init__(self, slots: StagingSlots, max_slots: int) -> None:
        self.slot_bytes = slots.slot_bytes
        self._slots = slots
        self._num_left = max_slots

    def try_take(self) -> int | None:
        slot = self._slots.try_take() if self._num_left else None
        if slot is not None:
            self._num_left -= 1
        return slot

    def give_back(self, slot: int) -> None:
        self._num_left += 1
        self._slots.give_back(slot)


Stage = Callable[[Sequence[int], int, KvLayout, int, int], Checksum]
"""(blocks, num_tokens, layout, offset, first) -> checksum: write the tokens into staging memory at
`offset`, as blocks of `layout`, the first of which has the place `first` in the sequence. They are
there when the checksum is known."""


class StagedTransfer:
    """A transfer that is posted when its blocks have been made, which is when their checksum is
    known."""

    def __init__(self, checksum: Checksum, post: Callable[[], PostedTransfer]) -> None:
        self._checksum = checksum
        self._post = post
        self._posted: PostedTransfer | None = None

    def done(self) -> bool:
        if self._posted is None:
            if try_sum(self._checksum) is None:
                return False
            self._posted = self._post()
        return self._posted.done()


class StagedWrites:
    """The write path where layouts differ: remote blocks are made in staging, and sent from there.

    `heads` are those that this rank sends to that one, None stands for all. A remote block with all
    its heads is one span; with some of them it is a span for each layer. Raises CannotExchange when
    no remote block could be made, or when one does not fit a slot.
    """

    def __init__(
        self,
        ours: KvLayout,
        theirs: KvLayout,
        slots: StagingSlots | SlotQuota,
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
        if unit_bytes > slots.slot_bytes:
            raise CannotExchange(f"{unit_bytes} bytes do not fit a slot of {slots.slot_bytes}")
        self._ours = ours
        self._theirs = theirs
        self._made = made
        self._slots = slots
        self._stage = stage
        self._max_tokens = slots.slot_bytes // unit_bytes * unit

    def split(self, block_write: BlockWrite) -> Iterator[BlockWrite]:
        ours, theirs = self._ours.block_size, self._theirs.block_size
        return split_write(block_write, ours, theirs, self._max_tokens // ours)

    def try_post(self, transport: Transport, part: WritePart) -> bool:
        slot = self._slots.try_take()
        if slot is None:
            return False
        write, made, start = part.block_write, self._made, slot * self._slots.slot_bytes
        first = checksum_seed(write.first_remote_block, made.heads)
        try:
            part.checksum = self._stage(write.blocks, write.num_tokens, made, start, first)
            spans = self._spans(start, write.remote_blocks)
            post = partial(transport.write_spans, part.path.name, spans, staged=True)
            known = isinstance(part.checksum, int)
            part.transfer = post() if known else StagedTransfer(part.checksum, post)
        except BaseException:
            self._slots.give_back(slot)
            raise
        part.release = partial(self._slots.give_back, slot)
        return True

    def _spans(self, start: int, remote_blocks: tuple[int, ...]) -> Offsets:
        """Copies of what was made, which lies in order from `start` on in staging memory."""
        made, theirs, staged = self._made, self._theirs, range(len(remote_blocks))
        if made.heads == theirs.heads:
            spans = block_spans(staged, remote_blocks, theirs.block_bytes)
        else:
            num_tokens = len(remote_blocks) * theirs.block_size
            spans = plan(made, theirs, made.heads).spans(staged, remote_blocks, num_tokens)
        spans[:, 0] += start
        return spans


def _among(heads: range, held: range) -> bool:
    return held.start <= heads.start and heads.stop <= held.stop
