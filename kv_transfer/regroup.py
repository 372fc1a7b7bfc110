"""Copies blocks into staging, where their sizes, heads or order are others, but no values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_transfer.exchange import needs_conversion
from wire.layout import KvLayout

LEAST_SLOTS = 4
"""Below so many tokens in the smaller block, a copy of each costs more than gathering them all."""

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


def can_regroup(source: KvLayout, staging: KvLayout) -> bool:
    """Whether nothing but places differ, and blocks are large enough for `regroup` to pay."""
    small = min(source.block_size, staging.block_size) < LEAST_SLOTS
    return not (small or source.scale_bytes or needs_conversion(source, staging))


def regroup(
    pool: Tensor,
    source: KvLayout,
    staging: KvLayout,
    blocks: Sequence[int],
    num_tokens: int,
    target: Tensor,
) -> None:
    """The first `num_tokens` tokens of these blocks, in blocks of the staging layout.

    `pool` and `target` are uint8 [bytes], the latter of exactly the blocks that hold the tokens;
    zeros are written behind the last token. Copies one granule, the smaller of the two blocks, at
    a time: these are long runs, which torch moves as fast as memory allows.
    """
    first = staging.first_kv_head - source.first_kv_head
    ours = _in_blocks(pool, source)[:, :, :, first : first + staging.num_kv_heads]
    theirs = _in_blocks(target, staging)
    swapped = source.kv_order != staging.kv_order
    kinds = ((0, 1), (1, 0)) if swapped else ((slice(None), slice(None)),)
    granule = min(source.block_size, staging.block_size)
    for start in range(0, num_tokens, granule):
        count = min(granule, num_tokens - start)
        block, slot = divmod(start, source.block_size)
        page, at = divmod(start, staging.block_size)
        for here, there in kinds:
            strips = ours[blocks[block], :, here, :, slot : slot + count]
            theirs[page, :, there, :, at : at + count] = strips
    theirs[-1, ..., (num_tokens - 1) % staging.block_size + 1 :, :] = 0


def _in_blocks(memory: Tensor, layout: KvLayout) -> Tensor:
    """[blocks, layers, 2, heads, slots, words], in the largest words that fit a row."""
    row = layout.token_bytes // (2 * layout.num_layers * layout.num_kv_heads)
    words = next(dtype for size, dtype in _WORDS if row % size == 0)
    shape = (-1, layout.num_layers, 2, layout.num_kv_heads, layout.block_size)
    return memory.view(words).view(*shape, row // words.itemsize)
