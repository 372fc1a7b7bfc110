import torch

from engine.digest import digest_blocks, weighted_sum

BLOCK_BYTES = 64


def a_pool() -> torch.Tensor:
    return torch.randint(0, 256, (8 * BLOCK_BYTES,), dtype=torch.uint8)


def test_the_same_blocks_in_the_same_order_have_the_same_checksum() -> None:
    pool = a_pool()
    moved = torch.cat([pool[3 * 64 : 4 * 64], pool[64:128], torch.zeros(64, dtype=torch.uint8)])
    assert digest_blocks(pool, BLOCK_BYTES, [3, 1]) == digest_blocks(moved, BLOCK_BYTES, [0, 1])
    assert digest_blocks(pool, BLOCK_BYTES, [3, 1]) != digest_blocks(pool, BLOCK_BYTES, [1, 3])


def test_every_flipped_bit_of_a_block_changes_the_checksum() -> None:
    pool = a_pool()
    whole = digest_blocks(pool, BLOCK_BYTES, [2])
    for bit in range(8 * BLOCK_BYTES):
        flipped = pool.clone()
        flipped[2 * BLOCK_BYTES + bit // 8] ^= 1 << bit % 8
        assert digest_blocks(flipped, BLOCK_BYTES, [2]) != whole


def test_every_flipped_bit_and_every_swap_changes_the_device_checksum() -> None:
    words = torch.randint(-(2**62), 2**62, (32,))
    whole = weighted_sum(words)
    for word in range(32):
        for bit in range(64):
            flipped = words.clone()
            flipped[word] ^= torch.tensor(1 << bit if bit < 63 else -(2**63))
            assert weighted_sum(flipped) != whole
    for word in range(31):
        swapped = words.clone()
        swapped[[word, word + 1]] = words[[word + 1, word]]
        assert weighted_sum(swapped) != whole


def test_no_blocks_have_a_checksum_too() -> None:
    assert digest_blocks(a_pool(), BLOCK_BYTES, []) >= 0
