import pytest
import torch

from kv_transfer.layout.checksum import MASK
from kv_transfer.layout.device_checksum import checksum_blocks, weighted_sum

pytestmark = pytest.mark.quick

BLOCK_BYTES = 64


def a_pool() -> torch.Tensor:
    return torch.randint(0, 256, (8 * BLOCK_BYTES,), dtype=torch.uint8)


def test_the_same_blocks_in_the_same_order_have_the_same_checksum() -> None:
    pool = a_pool()
    moved = torch.cat([pool[3 * 64 : 4 * 64], pool[64:128], torch.zeros(64, dtype=torch.uint8)])
    assert checksum_blocks(pool, BLOCK_BYTES, [3, 1], 0) == checksum_blocks(
        moved, BLOCK_BYTES, [0, 1], 0
    )
    assert checksum_blocks(pool, BLOCK_BYTES, [3, 1], 0) != checksum_blocks(
        pool, BLOCK_BYTES, [1, 3], 0
    )


def test_every_flipped_bit_of_a_block_changes_the_checksum() -> None:
    pool = a_pool()
    whole = checksum_blocks(pool, BLOCK_BYTES, [2], 0)
    for bit in range(8 * BLOCK_BYTES):
        flipped = pool.clone()
        flipped[2 * BLOCK_BYTES + bit // 8] ^= 1 << bit % 8
        assert checksum_blocks(flipped, BLOCK_BYTES, [2], 0) != whole


def test_every_flipped_bit_and_every_swap_changes_the_device_checksum() -> None:
    words = torch.randint(-(2**62), 2**62, (4, 8))
    whole = weighted_sum(words, 0)
    for word in range(32):
        for bit in range(64):
            flipped = words.clone()
            flipped.view(-1)[word] ^= torch.tensor(1 << bit if bit < 63 else -(2**63))
            assert weighted_sum(flipped, 0) != whole
    for word in range(31):
        swapped = words.clone()
        swapped.view(-1)[[word, word + 1]] = words.view(-1)[[word + 1, word]]
        assert weighted_sum(swapped, 0) != whole


def test_no_blocks_have_a_checksum_too() -> None:
    assert checksum_blocks(a_pool(), BLOCK_BYTES, [], 0) >= 0


def test_a_checksum_can_be_computed_in_parts() -> None:
    pool = a_pool()
    whole = checksum_blocks(pool, BLOCK_BYTES, [3, 1, 6], 2)
    parts = checksum_blocks(pool, BLOCK_BYTES, [3], 2) + checksum_blocks(
        pool, BLOCK_BYTES, [1, 6], 3
    )
    assert whole == parts & MASK


def test_a_device_checksum_can_be_computed_in_parts() -> None:
    words = torch.randint(-(2**62), 2**62, (3, 8))
    parts = weighted_sum(words[:1], 2) + weighted_sum(words[1:], 3)
    assert weighted_sum(words, 2) == parts & MASK
