"""Blocks of ours become blocks of another layout, over the memory transport."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.endpoints.staged_writes import StagedWrites, StagingSlots
from kv_transfer.endpoints.write_path import InPlaceWrites
from kv_transfer.layout.block_write import BlockWrite, split_write
from tests.kv_transfer.pools import (
    GARBAGE,
    Pair,
    carry,
    some_tokens,
)
from tests.kv_transfer.ranks import block_ids
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

MODEL = KvLayout(num_layers=2, num_kv_heads=2, head_size=2, block_size=4, dtype="float32")
SIZES = st.sampled_from([1, 2, 4, 8, 16])


def like(layout: KvLayout, **changes: object) -> KvLayout:
    return msgspec.structs.replace(layout, **changes)


def a_write(
    ours: KvLayout, theirs: KvLayout, num_tokens: int, first_remote_block: int = 0
) -> BlockWrite:
    """A write of scattered blocks to scattered remote blocks."""
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
    slots = StagingSlots(1, num_units * unit_bytes + unit_bytes // 2)
    block_write = a_write(ours, theirs, num_tokens, first_remote_block)
    parts = list(StagedWrites(ours, theirs, slots, never).split(block_write))
    check_parts(block_write, parts, ours, theirs)
    for part in parts:
        assert len(part.remote_blocks) * theirs.block_bytes <= slots.slot_bytes
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
    """A reader of whole blocks must find no values of an earlier owner."""
    pair = Pair(MODEL, like(MODEL, block_size=8))
    tokens = some_tokens(MODEL, 5)
    pair.source.put([1, 2], tokens)
    staged = pair.staged(1, 8 * MODEL.token_bytes)
    carry(pair.link, "them", staged.write_path, BlockWrite((1, 2), (6,), 5, 0))
    assert not pair.destination.get([6], 8)[5:].any()
    others = pair.destination.memory.view(40, -1)[[5, 7]]
    assert (others == GARBAGE).all()
