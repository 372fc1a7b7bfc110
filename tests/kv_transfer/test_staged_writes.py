"""Staging slots, quotas, and parts of writes that wait for them, over the memory transport."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch

from kv_transfer.endpoints.staged_writes import SlotQuota, StagedWrites, StagingSlots
from kv_transfer.endpoints.transfer_thread import TransferThread
from kv_transfer.endpoints.write_path import RankPath, WritePath, Written
from kv_transfer.errors import LinkFailed
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.head_routes import CannotExchange
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from tests.kv_transfer.pools import (
    Pair,
    a_part,
    carry,
    some_tokens,
    unmeasured,
)
from tests.kv_transfer.ranks import ranks
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

MODEL = KvLayout(num_layers=2, num_kv_heads=2, head_size=2, block_size=4, dtype="float32")


def like(layout: KvLayout, **changes: object) -> KvLayout:
    return msgspec.structs.replace(layout, **changes)


def never(*arguments: object) -> int:
    raise AssertionError("nothing was to be staged")


class Desk:
    """A transfer thread driven by hand, over any write path."""

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


def test_a_part_waits_while_all_staging_slots_are_taken_and_goes_later() -> None:
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


def test_staging_without_a_free_slot_posts_nothing() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(1, 8 * MODEL.token_bytes)
    slot = staged.slots.try_take()
    assert slot == 0
    part = a_part(staged.write_path, BlockWrite((0, 1), (3,), 8, 0))
    assert not staged.write_path.try_post(pair.link, part)
    staged.slots.give_back(slot)
    assert staged.write_path.try_post(pair.link, part)


def test_a_link_that_stands_still_leaves_slots_to_the_others() -> None:
    pair = Pair(MODEL, like(MODEL, block_size=8))
    staged = pair.staged(2, 8 * MODEL.token_bytes)
    stage = staged.write_path._stage
    layouts = MODEL, pair.destination.layout
    modest = StagedWrites(*layouts, SlotQuota(staged.slots, 1), stage)
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
    slots = StagingSlots(1, 1024)
    write_path = StagedWrites(MODEL, like(MODEL, block_size=8), slots, failing(MemoryError()))
    part = a_part(write_path, BlockWrite((0, 1), (3,), 8, 0))
    with pytest.raises(MemoryError):
        write_path.try_post(MemoryTransport("us", MemoryFabric()), part)
    assert slots.try_take() == 0


def failing(error: Exception) -> Callable[..., int]:
    def fail(*arguments: object, **named: object) -> int:
        raise error

    return fail


def test_each_slot_is_taken_once() -> None:
    slots = StagingSlots(3, 64)
    taken = [slots.try_take() for _ in range(4)]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1, 2]
    assert taken[3] is None
    slots.give_back(1)
    assert slots.try_take() == 1


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
def test_layouts_of_other_models_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(CannotExchange, match=named):
        StagedWrites(MODEL, like(MODEL, **changes), StagingSlots(1, 1 << 20), never)


def test_ranks_with_other_heads_are_refused() -> None:
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
