"""Blocks of ours become blocks of another layout, over the memory transport."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.endpoints.staged_writes import SlotQuota, StagedWrites, StagingSlots
from kv_transfer.endpoints.transfer_thread import TransferThread
from kv_transfer.endpoints.write_path import InPlaceWrites, RankPath, WritePath, Written
from kv_transfer.errors import LinkFailed
from kv_transfer.layout.block_write import BlockWrite, split_write
from kv_transfer.layout.head_routes import CannotExchange
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from tests.kv_transfer.pools import (
    GARBAGE,
    Pool,
    Staged,
    a_part,
    a_staging,
    carry,
    some_tokens,
    unmeasured,
)
from tests.kv_transfer.ranks import block_ids, ranks
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

MODEL = KvLayout(num_layers=2, num_kv_heads=2, head_size=2, block_size=4, dtype="float32")
SIZES = st.sampled_from([1, 2, 4, 8, 16])


def like(layout: KvLayout, **changes: object) -> KvLayout:
    return msgspec.structs.replace(layout, **changes)


def a_write(
    ours: KvLayout, theirs: KvLayout, num_tokens: int, first_remote_block: int = 0
) -> BlockWrite:
    """Scattered blocks to scattered remote blocks."""
    blocks = tuple(7 * i % 1009 for i in range(ours.num_blocks(num_tokens)))
    remote_blocks = tuple(5 * i % 1013 for i in range(theirs.num_blocks(num_tokens)))
    return BlockWrite(blocks, remote_blocks, num_tokens, first_remote_block)


def never(*arguments: object) -> int:
    raise AssertionError("nothing was to be staged")


def check_parts(
    block_write: BlockWrite, parts: list[BlockWrite], ours: KvLayout, theirs: KvLayout
) -> None:
    """Parts cover the block write in order, each with whole blocks on both sides, or its end."""
    assert [block for part in parts for block in part.blocks] == list(block_write.blocks)
    assert [page for part in parts for page in part.remote_blocks] == list(
        block_write.remote_blocks
    )
    assert sum(part.num_tokens for part in parts) == block_write.num_tokens
    for part in parts:
        assert len(part.blocks) == ours.num_blocks(part.num_tokens)
        assert len(part.remote_blocks) == theirs.num_blocks(part.num_tokens)
    for part, following in pairwise(parts):
        assert part.num_tokens % max(ours.block_size, theirs.block_size) == 0
        assert following.first_remote_block == part.first_remote_block + len(part.remote_blocks)
    assert not parts or parts[0].first_remote_block == block_write.first_remote_block


@given(SIZES, SIZES, st.integers(0, 300), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=200)
def test_staged_parts_cover_everything_in_whole_blocks_that_fit_a_slot(
    block_size: int,
    remote_block_size: int,
    num_tokens: int,
    num_units: int,
    first_remote_block: int,
) -> None:
    ours, theirs = like(MODEL, block_size=block_size), like(MODEL, block_size=remote_block_size)
    unit_bytes = max(block_size, remote_block_size) * theirs.token_bytes
    room = StagingSlots(1, num_units * unit_bytes + unit_bytes // 2)
    block_write = a_write(ours, theirs, num_tokens, first_remote_block)
    parts = list(StagedWrites(ours, theirs, room, never).split(block_write))
    check_parts(block_write, parts, ours, theirs)
    for part in parts:
        assert len(part.remote_blocks) * theirs.block_bytes <= room.slot_bytes
    assert len(parts) == -(-num_tokens // (num_units * max(block_size, remote_block_size)))


@given(SIZES, st.integers(0, 300), st.integers(0, 2000), st.integers(0, 9))
@settings(max_examples=100)
def test_direct_parts_cover_everything_and_are_no_larger_than_allowed(
    block_size: int, num_tokens: int, max_part_bytes: int, first_remote_block: int
) -> None:
    layout = like(MODEL, block_size=block_size)
    block_write = a_write(layout, layout, num_tokens, first_remote_block)
    parts = list(InPlaceWrites(layout, never, max_part_bytes).split(block_write))
    check_parts(block_write, parts, layout, layout)
    largest = max(max_part_bytes, layout.block_bytes)
    assert all(len(part.blocks) * layout.block_bytes <= largest for part in parts)


def test_a_write_that_fits_is_its_own_only_part() -> None:
    block_write = BlockWrite((4, 5, 6), (9,), num_tokens=11, first_remote_block=3)
    assert list(split_write(block_write, 4, 16, 100)) == [block_write]


class Pair:
    """A pool, and an end of a link over which it goes to another pool."""

    def __init__(self, ours: KvLayout, theirs: KvLayout, num_blocks: int = 40) -> None:
        self.fabric = MemoryFabric()
        self.source, self.destination = Pool(ours, num_blocks), Pool(theirs, num_blocks)
        self.link = MemoryTransport("us", self.fabric)
        self.peer = MemoryTransport("them", self.fabric)
        self.peer.register(self.destination.region, num_blocks)

    def direct(self, max_part_bytes: int = 1 << 20) -> WritePath:
        self.link.register(self.source.region, self.source.num_blocks)
        self.link.connect("them", self.peer.admit("us"))
        return InPlaceWrites(self.source.layout, self.source.checksum, max_part_bytes)

    def staged(self, num_slots: int, slot_bytes: int) -> Staged:
        staged = a_staging(self.source, self.destination.layout, num_slots, slot_bytes)
        self.link.register(self.source.region, self.source.num_blocks, staged.memory)
        self.link.connect("them", self.peer.admit("us"))
        return staged


def test_layers_that_leave_one_after_the_other_make_whole_blocks() -> None:
    pair = Pair(MODEL, MODEL)
    tokens = some_tokens(MODEL, 7)
    blocks, remote_blocks = (2, 0), (5, 1)
    pair.source.put(blocks, tokens)
    write_path, total = pair.direct(), 0
    for layers in ((0, 1), (1, MODEL.num_layers)):
        total += carry(
            pair.link, "them", write_path, BlockWrite(blocks, remote_blocks, 7, 3, layers)
        )
    assert torch.equal(pair.destination.get(remote_blocks, 7), tokens)
    assert total == pair.destination.checksum(remote_blocks, 3)


@given(st.data(), SIZES, SIZES, st.sampled_from(["kv", "vk"]), st.integers(0, 6))
@settings(max_examples=80)
def test_what_is_staged_arrives_and_has_the_checksum_that_the_destination_finds(
    data: st.DataObject,
    block_size: int,
    remote_block_size: int,
    order: str,
    first_remote_block: int,
) -> None:
    theirs = like(MODEL, block_size=remote_block_size, kv_order=order)
    pair = Pair(like(MODEL, block_size=block_size), theirs)
    num_tokens = data.draw(st.integers(1, 2 * max(block_size, remote_block_size) + 1))
    blocks = data.draw(block_ids(pair.source.layout, num_tokens, 40))
    remote_blocks = data.draw(block_ids(theirs, num_tokens, 40))
    tokens = some_tokens(MODEL, num_tokens)
    pair.source.put(blocks, tokens)
    slot_bytes = (
        data.draw(st.integers(1, 3)) * max(block_size, remote_block_size) * theirs.token_bytes
    )
    staged = pair.staged(2, slot_bytes)

    block_write = BlockWrite(tuple(blocks), tuple(remote_blocks), num_tokens, first_remote_block)
    checksum = carry(pair.link, "them", staged.write_path, block_write)

    assert torch.equal(pair.destination.get(remote_blocks, num_tokens), tokens)
    assert checksum == pair.destination.checksum(remote_blocks, first_remote_block)
    assert staged.num_free == 2


@given(st.integers(1, 40), st.integers(0, 6), st.integers(1, 300))
@settings(max_examples=40)
def test_what_is_written_directly_has_the_checksum_that_the_destination_finds(
    num_tokens: int, first_remote_block: int, max_part_bytes: int
) -> None:
    pair = Pair(MODEL, MODEL)
    count = MODEL.num_blocks(num_tokens)
    blocks, remote_blocks = range(count), range(39, 39 - count, -1)
    tokens = some_tokens(MODEL, num_tokens)
    pair.source.put(blocks, tokens)
    block_write = BlockWrite(tuple(blocks), tuple(remote_blocks), num_tokens, first_remote_block)
    checksum = carry(pair.link, "them", pair.direct(max_part_bytes), block_write)
    assert torch.equal(pair.destination.get(remote_blocks, num_tokens), tokens)
    assert checksum == pair.destination.checksum(remote_blocks, first_remote_block)


def test_blocks_in_another_order_have_another_checksum() -> None:
    pair = Pair(like(MODEL, block_size=8), MODEL)
    pair.source.put([0], some_tokens(MODEL, 8))
    staged = pair.staged(1, 8 * MODEL.token_bytes)
    checksum = carry(pair.link, "them", staged.write_path, BlockWrite((0,), (3, 2), 8, 0))
    assert checksum == pair.destination.checksum([3, 2], 0)
    assert checksum != pair.destination.checksum([2, 3], 0)
    assert checksum != pair.destination.checksum([3, 2], 1)


def test_behind_the_last_token_a_block_is_zero_and_other_blocks_are_left_alone() -> None:
    """Whoever reads whole blocks finds no earlier owner's values there."""
    pair = Pair(MODEL, like(MODEL, block_size=8))
    tokens = some_tokens(MODEL, 5)
    pair.source.put([1, 2], tokens)
    staged = pair.staged(1, 8 * MODEL.token_bytes)
    carry(pair.link, "them", staged.write_path, BlockWrite((1, 2), (6,), 5, 0))
    assert not pair.destination.get([6], 8)[5:].any()
    others = pair.destination.memory.view(40, -1)[[5, 7]]
    assert (others == GARBAGE).all()


class Desk:
    """A transfer thread driven by hand, over whatever crossing it is given."""

    def __init__(self, pair: Pair, write_path: WritePath) -> None:
        self.written: list[Written] = []
        self.transfer_thread = TransferThread(pair.link, lambda link, cause: None, _raise)
        admission = pair.peer.admit("us")
        path = RankPath("them", admission, write_path, unmeasured)
        self.transfer_thread.connect("them", [path], lambda speeds: None)
        self.transfer_thread.turn()

    def write(self, block_write: BlockWrite) -> None:
        self.transfer_thread.write("them", block_write, self.written.append)
        self.transfer_thread.turn()

    @property
    def in_flight(self) -> list[int]:
        return [part.block_write.num_tokens for part in self.transfer_thread._writes.in_flight]


def _raise(error: Exception) -> None:
    raise error


def three_parts(pair: Pair) -> BlockWrite:
    """20 tokens of which a slot of one remote block takes eight."""
    pair.source.put(range(5), some_tokens(MODEL, 20))
    return BlockWrite((0, 1, 2, 3, 4), (9, 7, 8), 20, 0)


def test_a_part_waits_while_the_staging_room_is_full_and_goes_later() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(2, 8 * MODEL.token_bytes)
    desk = Desk(pair, staged.write_path)
    block_write = three_parts(pair)
    pair.fabric.stall()
    desk.write(block_write)
    assert (desk.in_flight, staged.num_free) == ([8, 8], 0)
    pair.fabric.resume()
    desk.transfer_thread.turn()
    (written,) = desk.written
    assert written.cause is None
    assert written.checksum == pair.destination.checksum(block_write.remote_blocks, 0)
    assert torch.equal(pair.destination.get(block_write.remote_blocks, 20), some_tokens(MODEL, 20))
    assert staged.num_free == 2


def test_a_room_without_a_free_slot_posts_nothing() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(1, 8 * MODEL.token_bytes)
    slot = staged.room.try_take()
    assert slot == 0
    part = a_part(staged.write_path, BlockWrite((0, 1), (3,), 8, 0))
    assert not staged.write_path.try_post(pair.link, part)
    staged.room.give_back(slot)
    assert staged.write_path.try_post(pair.link, part)


def test_a_link_that_stands_still_leaves_slots_to_the_others() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(2, 8 * MODEL.token_bytes)
    stage = staged.write_path._stage
    layouts = MODEL, pair.destination.layout
    modest = StagedWrites(*layouts, SlotQuota(staged.room, 1), stage)
    posted, waiting = (a_part(modest, BlockWrite((0, 1), (3,), 8, 0)) for _ in range(2))
    assert modest.try_post(pair.link, posted)
    assert not modest.try_post(pair.link, waiting)
    assert staged.num_free == 1
    posted.end(now=0.0)
    assert modest.try_post(pair.link, waiting)


def test_writes_that_go_down_with_their_link_give_their_slots_back() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(2, 8 * MODEL.token_bytes)
    desk = Desk(pair, staged.write_path)
    pair.fabric.stall()
    desk.write(three_parts(pair))
    pair.fabric.kill("them")
    desk.transfer_thread.turn()
    (written,) = desk.written
    assert written.cause is not None
    assert staged.num_free == 2


@pytest.mark.parametrize("error", [LinkFailed("the fabric is gone"), CannotExchange("never")])
def test_a_write_that_cannot_be_posted_gives_its_slot_back(error: Exception) -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(1, 8 * MODEL.token_bytes)
    pair.link.write_spans = failing(error)  # type: ignore[method-assign]
    part = a_part(staged.write_path, BlockWrite((0, 1), (3,), 8, 0))
    with pytest.raises(type(error)):
        staged.write_path.try_post(pair.link, part)
    part.end(now=0.0, cause=str(error))
    assert staged.num_free == 1


def test_staging_that_fails_gives_its_slot_back() -> None:
    room = StagingSlots(1, 1024)
    write_path = StagedWrites(MODEL, like(MODEL, block_size=8), room, failing(MemoryError()))
    part = a_part(write_path, BlockWrite((0, 1), (3,), 8, 0))
    with pytest.raises(MemoryError):
        write_path.try_post(MemoryTransport("us", MemoryFabric()), part)
    assert room.try_take() == 0


def failing(error: Exception) -> Callable[..., int]:
    def fail(*arguments: object, **named: object) -> int:
        raise error

    return fail


def test_each_slot_is_taken_once() -> None:
    room = StagingSlots(3, 64)
    slots = [room.try_take() for _ in range(4)]
    assert sorted(slot for slot in slots if slot is not None) == [0, 1, 2]
    assert slots[3] is None
    room.give_back(1)
    assert room.try_take() == 1


@pytest.mark.parametrize("slot_bytes", [1000, 1001, 1007])
def test_slots_of_any_size_begin_with_a_whole_word(slot_bytes: int) -> None:
    """Otherwise a device could not checksum what lies there."""
    assert StagingSlots(4, slot_bytes).slot_bytes == 1000


def test_parts_under_way_at_once_lie_in_different_slots() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=2))
    staged = pair.staged(3, 4 * MODEL.token_bytes)
    pair.fabric.stall()
    tokens = some_tokens(MODEL, 12)
    pair.source.put([2, 0, 1], tokens)
    block_write = BlockWrite((2, 0, 1), (5, 4, 3, 2, 1, 0), 12, 0)
    write_path = staged.write_path
    parts = [a_part(write_path, part) for part in write_path.split(block_write)]
    assert all(write_path.try_post(pair.link, part) for part in parts)
    pair.fabric.resume()
    assert all(part.transfer is not None and part.transfer.done() for part in parts)
    assert torch.equal(pair.destination.get(block_write.remote_blocks, 12), tokens)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_layers": 3}, "num_layers is 2 and 3"),
        ({"head_size": 4}, "head_size is 2 and 4"),
        ({"num_kv_heads": 4}, "the model has 2 and 4 KV heads"),
        ({"block_size": 6}, "neither divides the other"),
        ({"dtype": "int64"}, "no conversion is known"),
    ],
)
def test_layouts_of_other_models_cannot_cross(changes: dict[str, object], named: str) -> None:
    with pytest.raises(CannotExchange, match=named):
        StagedWrites(MODEL, like(MODEL, **changes), StagingSlots(1, 1 << 20), never)


def test_ranks_with_other_heads_cannot_cross() -> None:
    half, other = ranks(MODEL, 2)
    named = r"KV heads range\(0, 2\) of range\(0, 1\) here, range\(0, 2\) there"
    with pytest.raises(CannotExchange, match=named):
        StagedWrites(half, MODEL, StagingSlots(1, 1 << 20), never)
    with pytest.raises(CannotExchange, match=r"KV heads range\(1, 2\) of range\(0, 1\) here"):
        StagedWrites(half, MODEL, StagingSlots(1, 1 << 20), never, other.heads)


@pytest.mark.parametrize(("block_size", "remote_block_size"), [(4, 16), (16, 4), (16, 16)])
def test_what_must_be_staged_together_has_to_fit_a_slot(
    block_size: int, remote_block_size: int
) -> None:
    ours = like(MODEL, block_size=block_size)
    theirs = like(MODEL, block_size=remote_block_size, dtype="float16")
    needed = 16 * theirs.token_bytes
    with pytest.raises(CannotExchange, match=f"{needed} bytes do not fit a slot of {needed - 8}"):
        StagedWrites(ours, theirs, StagingSlots(4, needed - 1), never)
    assert StagedWrites(ours, theirs, StagingSlots(4, needed), never)


def test_scales_count_among_a_block_s_bytes() -> None:
    theirs = like(MODEL, dtype="float8_e4m3fn")
    assert theirs.scale_bytes > 0
    with pytest.raises(CannotExchange, match="do not fit"):
        StagedWrites(MODEL, theirs, StagingSlots(1, theirs.value_bytes), never)
    pair = Pair(MODEL, theirs)
    pair.source.put([0, 1], some_tokens(MODEL, 8))
    staged = pair.staged(1, 2 * theirs.block_bytes)
    carry(pair.link, "them", staged.write_path, BlockWrite((0, 1), (8, 2), 8, 0))
    found = pair.destination.get([8, 2], 8)
    torch.testing.assert_close(found, some_tokens(MODEL, 8), rtol=2**-4, atol=2**-6)


def test_spans_of_a_part_are_its_blocks_in_their_order() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=2))
    staged = pair.staged(2, 4 * MODEL.token_bytes)
    posted: list[np.ndarray] = []
    pair.link.write_spans = lambda link, spans, staged: posted.append(spans)  # type: ignore
    part = a_part(staged.write_path, BlockWrite((1,), (9, 4), 4, 0))
    assert staged.write_path.try_post(pair.link, part)
    size, start = 2 * MODEL.token_bytes, 4 * MODEL.token_bytes
    (spans,) = posted
    assert spans.tolist() == [[start, 9 * size, size], [start + size, 4 * size, size]]
