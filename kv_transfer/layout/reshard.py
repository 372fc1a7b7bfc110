"""Plans copies between pools of two layouts: other block sizes, other KV heads, other order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from kv_transfer.layout.head_routes import CannotExchange, check_exchange, needs_conversion
from kv_transfer.layout.spans import Offsets, merge
from wire.layout import DTYPE_BYTES, SCALE_BYTES, KvLayout


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """The copies by which some heads of one source rank reach one destination rank.

    Tokens are copied in granules of the smaller block size: a granule lies in one block on both
    sides. `granules` are the pieces of a granule for each place that it can have in the larger
    block: [places, pieces, 3], rows as in `Span`, offsets from the starts of the two blocks.
    """

    source: KvLayout
    destination: KvLayout
    heads: range
    granules: Offsets

    @property
    def granule_size(self) -> int:
        """The tokens of a granule."""
        return min(self.source.block_size, self.destination.block_size)

    def padded(self, num_tokens: int) -> int:
        """`num_tokens` rounded up to whole granules: spans become longer and fewer.

        The token slots behind the last token lie in blocks that both sides hold anyway.
        """
        return -(-num_tokens // self.granule_size) * self.granule_size

    def num_pieces(self, num_tokens: int) -> int:
        """The largest number of spans: blocks are scattered, and `num_tokens` is padded."""
        return len(self.granules[0]) * (self.padded(num_tokens) // self.granule_size)

    def num_bytes(self, num_tokens: int) -> int:
        """The bytes that are copied when `num_tokens` is padded."""
        granule = int(self.granules[0, :, 2].sum())
        return granule * (self.padded(num_tokens) // self.granule_size)

    def spans(
        self,
        source_blocks: Sequence[int] | Offsets,
        destination_blocks: Sequence[int] | Offsets,
        num_tokens: int,
        *,
        first_token: int = 0,
    ) -> Offsets:
        """Copies that move tokens [first_token, num_tokens): int64 [n, 3], rows as in `Span`.

        Token 0 is the first of source_blocks[0] and of destination_blocks[0]; blocks that hold only
        tokens before first_token are ignored. Destination blocks must be distinct. Spans are in the
        order of destination_offset, and no two could be merged. Raises ValueError when tokens lie
        outside the blocks, or first_token is inside a granule.
        """
        size = self.granule_size
        if first_token < 0 or first_token % size:
            raise ValueError(f"first_token is {first_token}, expected a multiple of {size}")
        starts = np.arange(first_token, num_tokens, size, dtype=np.int64)
        bases = np.zeros((len(starts), 3), dtype=np.int64)
        bases[:, 0] = _block_offsets(self.source, source_blocks, starts)
        bases[:, 1] = _block_offsets(self.destination, destination_blocks, starts)
        num_whole = max(0, num_tokens - first_token) // size
        places = starts // size % len(self.granules)
        pieces = (bases[:num_whole, None] + self.granules[places[:num_whole]]).reshape(-1, 3)
        if num_whole < len(starts):
            start = int(starts[-1])
            rest = _granule(self.source, self.destination, self.heads, start, num_tokens - start)
            pieces = np.concatenate([pieces, rest + bases[-1]])
        return merge(pieces)


@lru_cache(maxsize=256)
def plan(source: KvLayout, destination: KvLayout, heads: range | None = None) -> Plan:
    """The plan for one source rank and one destination rank; cached.

    `heads` are the model's heads that this source sends to this destination (see
    kv_transfer.layout.head_routes); None stands for all that both hold, which may be none. Raises
    CannotExchange, also when values must be converted: then the source of the copies is a staging
    buffer.
    """
    check_exchange(source, destination)
    if needs_conversion(source, destination):
        raise CannotExchange(
            f"{source.dtype} in blocks of {source.block_size} must be converted into a staging "
            f"buffer of {destination.dtype} in blocks of {destination.block_size} first"
        )
    common = range(
        max(source.heads.start, destination.heads.start),
        min(source.heads.stop, destination.heads.stop),
    )
    heads = common if heads is None else heads
    if heads and not (heads.step == 1 and heads[0] in common and heads[-1] in common):
        raise CannotExchange(f"KV heads {heads} are not among {common}, which both sides hold")
    granules = _granules(source, destination, heads)
    granules.flags.writeable = False
    return Plan(source, destination, heads, granules)


def staging_layout(destination: KvLayout, heads: range) -> KvLayout:
    """The layout of a buffer on the source that holds blocks as the destination wants them."""
    return KvLayout(
        num_layers=destination.num_layers,
        num_kv_heads=len(heads),
        head_size=destination.head_size,
        block_size=destination.block_size,
        dtype=destination.dtype,
        first_kv_head=heads.start,
        total_kv_heads=destination.model_kv_heads,
        kv_order=destination.kv_order,
    )


def _block_offsets(layout: KvLayout, blocks: ArrayLike, starts: Offsets) -> Offsets:
    """Byte offsets of the blocks that hold the tokens `starts`."""
    ids = np.asarray(blocks, dtype=np.int64)
    indexes = starts // layout.block_size
    if len(starts) and indexes[-1] >= len(ids):
        raise ValueError(f"{len(ids)} blocks of {layout.block_size} tokens do not hold all tokens")
    used = ids[indexes]
    if (used < 0).any():
        raise ValueError(f"block {used.min()} does not exist")
    return used * layout.block_bytes


def _granules(source: KvLayout, destination: KvLayout, heads: range) -> Offsets:
    """Pieces of whole granules, [places, pieces, 3]; merged where there is but one place."""
    size, large = sorted((source.block_size, destination.block_size))
    places = [_granule(source, destination, heads, at, size) for at in range(0, large, size)]
    return np.stack([merge(places[0])] if size == large else places)


def _granule(
    source: KvLayout, destination: KvLayout, heads: range, start: int, num_tokens: int
) -> Offsets:
    """Pieces of the tokens [start, start + num_tokens), which lie in one block on both sides."""
    row = source.head_size * DTYPE_BYTES[source.dtype]
    ours, theirs = _strips(source, heads), _strips(destination, heads)
    pieces = _pieces(
        (ours * source.block_size + start % source.block_size) * row,
        (theirs * destination.block_size + start % destination.block_size) * row,
        num_tokens * row,
    )
    if not source.scale_bytes:
        return pieces
    scales = _pieces(
        source.value_bytes + ours * SCALE_BYTES,
        destination.value_bytes + theirs * SCALE_BYTES,
        SCALE_BYTES,
    )
    return np.concatenate([pieces, scales])


def _strips(layout: KvLayout, heads: range) -> Offsets:
    """Indexes of these heads in a block's [layer, key/value, kv_head], each layer's keys first."""
    kinds = np.array([0, 1] if layout.kv_order == "kv" else [1, 0], dtype=np.int64)
    layers = np.arange(layout.num_layers, dtype=np.int64)
    local = np.arange(len(heads), dtype=np.int64) + (heads.start - layout.first_kv_head)
    rows = (2 * layers[:, None] + kinds).reshape(-1, 1)
    return (rows * layout.num_kv_heads + local).ravel()


def _pieces(sources: Offsets, destinations: Offsets, num_bytes: int) -> Offsets:
    return np.stack([sources, destinations, np.full_like(sources, num_bytes)], axis=1)
