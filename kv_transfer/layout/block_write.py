"""A block write: which blocks of one worker become which blocks of another."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class BlockWrite(msgspec.Struct, frozen=True):
    """Copy `num_tokens` tokens from the start of `blocks` to the start of `remote_blocks`.

    Remote blocks are the destination's; the first is number `first_remote_block` of those that the
    sequence has there. `layers` (first, end) are copied now, None stands for all. The last layers
    come last: they complete a block.
    """

    blocks: tuple[int, ...]
    remote_blocks: tuple[int, ...]
    num_tokens: int
    first_remote_block: int
    layers: tuple[int, int] | None = None


def split_write(
    block_write: BlockWrite, block_size: int, remote_block_size: int, max_blocks: int
) -> Iterator[BlockWrite]:
    """Parts of at most `max_blocks` blocks, which fill whole remote blocks."""
    max_tokens = max_blocks * block_size
    for start in range(0, block_write.num_tokens, max_tokens):
        end = min(start + max_tokens, block_write.num_tokens)
        first = start // remote_block_size
        yield msgspec.structs.replace(
            block_write,
            blocks=block_write.blocks[start // block_size : -(-end // block_size)],
            remote_blocks=block_write.remote_blocks[first : -(-end // remote_block_size)],
            num_tokens=end - start,
            first_remote_block=block_write.first_remote_block + first,
        )
