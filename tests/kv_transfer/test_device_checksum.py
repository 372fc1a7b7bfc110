"""The checksum of a device's memory: what it is, what it finds, and the memory that it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kv_transfer.layout.checksum import MASK, checksum_host_blocks
from kv_transfer.layout.checksum_stream import ChecksumStream
from kv_transfer.layout.device_checksum import MULTIPLIER, SCRATCH_PART_BYTES
from tests.kv_transfer.live_memory import LiveMemory
from tests.kv_transfer.streams import AtOnce
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

BLOCK_BYTES = 64
CPU = torch.device("cpu")
LLAMA_8B = KvLayout(num_layers=32, num_kv_heads=8, head_size=128, block_size=16, dtype="bfloat16")


def a_pool() -> Tensor:
    return torch.randint(0, 256, (8 * BLOCK_BYTES,), dtype=torch.uint8)


def host_sum(pool: Tensor, blocks: list[int], first: int) -> int:
    return checksum_host_blocks(pool.numpy().data, BLOCK_BYTES, blocks, first)


def device_sum(pool: Tensor, blocks: list[int], first: int, block_bytes: int = BLOCK_BYTES) -> int:
    return ChecksumStream(CPU, AtOnce()).of_blocks(pool, block_bytes, blocks, first).wait()


KINDS = pytest.mark.parametrize("checksum", [host_sum, device_sum])


@KINDS
def test_the_same_blocks_in_the_same_order_have_the_same_checksum(checksum) -> None:  # type: ignore[no-untyped-def]
    pool = a_pool()
    moved = torch.cat([pool[3 * 64 : 4 * 64], pool[64:128], torch.zeros(64, dtype=torch.uint8)])
    assert checksum(pool, [3, 1], 0) == checksum(moved, [0, 1], 0)
    assert checksum(pool, [3, 1], 0) != checksum(pool, [1, 3], 0)


@KINDS
def test_every_flipped_bit_of_a_block_changes_the_checksum(checksum) -> None:  # type: ignore[no-untyped-def]
    pool = a_pool()
    whole = checksum(pool, [2], 0)
    for bit in range(0, 8 * BLOCK_BYTES, 3):
        flipped = pool.clone()
        flipped[2 * BLOCK_BYTES + bit // 8] ^= 1 << bit % 8
        assert checksum(flipped, [2], 0) != whole


def test_every_swap_of_words_changes_a_device_s_checksum() -> None:
    pool = a_pool()
    whole = device_sum(pool, [0, 1, 2, 3], 0)
    for word in range(31):
        swapped = pool.clone().view(torch.int64)
        swapped[[word, word + 1]] = swapped[[word + 1, word]]
        assert device_sum(swapped.view(torch.uint8), [0, 1, 2, 3], 0) != whole


@KINDS
def test_no_blocks_have_a_checksum_too(checksum) -> None:  # type: ignore[no-untyped-def]
    assert checksum(a_pool(), [], 0) == 0


@KINDS
def test_a_checksum_can_be_computed_in_parts(checksum) -> None:  # type: ignore[no-untyped-def]
    pool = a_pool()
    whole = checksum(pool, [3, 1, 6], 2)
    assert whole == (checksum(pool, [3], 2) + checksum(pool, [1, 6], 3)) & MASK


def test_the_sum_is_that_of_the_words_times_their_weights() -> None:
    """Written in Python's integers; workers of two versions must agree on it."""
    pool, first, total = a_pool(), 3 + (5 << 32), 0
    words = pool.view(torch.int64).view(-1, BLOCK_BYTES // 8).tolist()
    for place, block in enumerate([6, 0, 2], first):
        for number, word in enumerate(words[block], place * len(words[block])):
            total += word * ((number * MULTIPLIER) | 1)
    assert device_sum(pool, [6, 0, 2], first) == total & MASK


def test_a_long_prompt_takes_no_more_scratch_memory_than_a_short_one() -> None:
    """With blocks of a model of 8B: parts are of 16 MB, and a prompt of 128k tokens has 1,024."""
    size = LLAMA_8B.block_bytes
    per_part = SCRATCH_PART_BYTES // size
    pool, peaks = torch.arange(2 * size).to(torch.uint8), []
    for num_blocks in (per_part, 4 * per_part + 3):
        blocks = [number % 2 for number in range(num_blocks)]
        with LiveMemory() as memory:
            whole = device_sum(pool, blocks, 9, size)
        peaks.append(memory.peak_bytes)
        parts = [device_sum(pool, blocks[n : n + 3], 9 + n, size) for n in range(0, num_blocks, 3)]
        assert whole == sum(parts) & MASK
    assert 2 * SCRATCH_PART_BYTES <= peaks[0] <= peaks[1] <= 64 << 20
