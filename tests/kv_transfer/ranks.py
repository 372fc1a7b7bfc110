"""Layouts of tensor-parallel ranks, and the slow, obvious copy of tokens among their pools."""

from collections.abc import Iterator
from itertools import product

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from kv_transfer.layout.head_routes import HeadRoute
from wire.layout import DTYPE_BYTES, SCALE_BYTES, KvLayout

Addresses = NDArray[np.int64]
DEGREES = (1, 2, 4, 8)


def ranks(model: KvLayout, degree: int) -> list[KvLayout]:
    """The layouts of `degree` ranks; heads are replicated when there are fewer of them."""
    total = model.num_kv_heads
    held = max(1, total // degree)
    return [
        msgspec.structs.replace(
            model,
            num_kv_heads=held,
            first_kv_head=rank * total // degree,
            total_kv_heads=total,
        )
        for rank in range(degree)
    ]


@st.composite
def model_pairs(draw: st.DrawFn, dtype: str = "float16") -> tuple[KvLayout, KvLayout]:
    """Two layouts of one model, of block sizes of which one divides the other."""
    small = draw(st.sampled_from([1, 2, 3, 4, 8]))
    sizes = draw(st.permutations([small, small * draw(st.integers(1, 4))]))
    shape = {
        "num_layers": draw(st.integers(1, 3)),
        "num_kv_heads": draw(st.sampled_from(DEGREES)),
        "head_size": draw(st.sampled_from([1, 2, 4])),
    }
    source, destination = (
        KvLayout(
            **shape, block_size=size, dtype=dtype, kv_order=draw(st.sampled_from(["kv", "vk"]))
        )
        for size in sizes
    )
    return source, destination


@st.composite
def block_ids(draw: st.DrawFn, layout: KvLayout, num_tokens: int, pool: int) -> list[int]:
    """Distinct blocks for the tokens: scattered, or runs of neighbours."""
    count = layout.num_blocks(num_tokens)
    if draw(st.booleans()):
        first = draw(st.integers(0, pool - count))
        return list(range(first, first + count))
    return draw(st.permutations(range(pool)))[:count]


def strip_addresses(layout: KvLayout, block: int, layer: int, kind: str, head: int) -> range:
    """Where the values of a block's strip [slot, head_size] lie; for eyes, not for speed."""
    row = layout.head_size * DTYPE_BYTES[layout.dtype]
    strip = layer * 2 + layout.kv_order.index(kind)
    strip = strip * layout.num_kv_heads + (head - layout.first_kv_head)
    start = block * layout.block_bytes + strip * layout.block_size * row
    return range(start, start + layout.block_size * row)


def scale_addresses(layout: KvLayout, block: int, layer: int, kind: str, head: int) -> range:
    strip = layer * 2 + layout.kv_order.index(kind)
    strip = strip * layout.num_kv_heads + (head - layout.first_kv_head)
    start = (block + 1) * layout.block_bytes - layout.scale_bytes + strip * SCALE_BYTES
    return range(start, start + (SCALE_BYTES if layout.scale_bytes else 0))


def strips(layout: KvLayout, heads: range) -> Iterator[tuple[int, str, int]]:
    return product(range(layout.num_layers), "kv", heads)


def moved_by_hand(
    source: KvLayout,
    destination: KvLayout,
    blocks: list[int],
    remote_blocks: list[int],
    tokens: range,
    heads: range,
    pool: int,
) -> Addresses:
    """For each byte of the destination's pool the source's byte that belongs there, or -1."""
    came_from = np.full(pool * destination.block_bytes, -1, dtype=np.int64)
    row = source.head_size * DTYPE_BYTES[source.dtype]
    for token in tokens:
        block, slot = blocks[token // source.block_size], token % source.block_size
        remote_block = remote_blocks[token // destination.block_size]
        place = token % destination.block_size
        for strip in strips(source, heads):
            ours = strip_addresses(source, block, *strip)[slot * row : (slot + 1) * row]
            theirs = strip_addresses(destination, remote_block, *strip)[
                place * row : (place + 1) * row
            ]
            for target, origin in zip(theirs, ours, strict=True):
                came_from[target] = origin
            ours = scale_addresses(source, block, *strip)
            for target, origin in zip(
                scale_addresses(destination, remote_block, *strip), ours, strict=True
            ):
                came_from[target] = origin
    return came_from


def moved_by_spans(spans: Addresses, num_bytes: int) -> Addresses:
    """The source's byte for each byte of the destination, as a plan's spans copy them, or -1.

    Fails when two spans write one byte.
    """
    came_from = np.full(num_bytes, -1, dtype=np.int64)
    for source, destination, count in spans.tolist():
        assert count > 0
        assert 0 <= destination <= num_bytes - count
        assert (came_from[destination : destination + count] == -1).all()
        came_from[destination : destination + count] = np.arange(source, source + count)
    return came_from


def num_runs(came_from: Addresses) -> int:
    """Stretches of bytes that are adjacent on both sides: no plan has fewer spans."""
    written = came_from >= 0
    continues = written[1:] & written[:-1] & (came_from[1:] == came_from[:-1] + 1)
    return int(written.sum() - continues.sum())


def all_heads(routes: list[HeadRoute]) -> list[int]:
    return [head for route in routes for head in route.heads]
