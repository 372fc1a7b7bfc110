"""Which ranks can exchange KV blocks, and which KV heads go from which rank to which.

TransferError
└── BadPeer
    └── CannotExchange      layouts of different models, or of block sizes without a common boundary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from kv_transfer.errors import BadPeer
from wire.layout import SCALED_DTYPES, KvLayout

CONVERTIBLE = frozenset({"float32", "bfloat16", "float16", "float8_e4m3fn"})
"""Dtypes that can be converted into one another; see kv_transfer.layout.convert."""


class CannotExchange(BadPeer):
    """No sequence of copies and conversions takes blocks of one layout to the other."""


class HeadRoute(NamedTuple):
    """The source rank from which these of the model's KV heads come."""

    source_rank: int
    heads: range


class RankPair(NamedTuple):
    """The connection of a link over which one source rank writes heads to one destination rank."""

    source_rank: int
    destination_rank: int
    heads: range


@lru_cache(maxsize=256)
def can_exchange(a: KvLayout, b: KvLayout) -> bool:
    """Whether blocks can go from one layout to the other, in either direction."""
    return next(_differences(a, b), None) is None


def check_exchange(source: KvLayout, destination: KvLayout) -> None:
    """Raises CannotExchange, which names all that differs and may not."""
    differences = "; ".join(_differences(source, destination))
    if differences:
        raise CannotExchange(f"source and destination cannot exchange blocks: {differences}")


def _differences(a: KvLayout, b: KvLayout) -> Iterator[str]:
    if a.num_layers != b.num_layers:
        yield f"num_layers is {a.num_layers} and {b.num_layers}"
    if a.head_size != b.head_size:
        yield f"head_size is {a.head_size} and {b.head_size}"
    if a.model_kv_heads != b.model_kv_heads:
        yield f"the model has {a.model_kv_heads} and {b.model_kv_heads} KV heads"
    if max(a.block_size, b.block_size) % min(a.block_size, b.block_size):
        yield f"block_size is {a.block_size} and {b.block_size}, of which neither divides the other"
    if a.dtype != b.dtype and not {a.dtype, b.dtype} <= CONVERTIBLE:
        yield f"dtype is {a.dtype} and {b.dtype}, between which no conversion is known"


def needs_conversion(source: KvLayout, destination: KvLayout) -> bool:
    """Whether values change on the way, so that blocks must pass through staging.

    They do when dtypes differ, and when blocks with a scale each become one block with one scale.
    """
    scaled = source.dtype in SCALED_DTYPES
    widens = destination.block_size > source.block_size
    return source.dtype != destination.dtype or (scaled and widens)


def head_routes(
    sources: Sequence[KvLayout], destinations: Sequence[KvLayout]
) -> list[list[HeadRoute]]:
    """The routes of each destination rank's heads.

    Ranks that hold the same heads are replicas: they are numbered in order, and share the load.
    Raises CannotExchange.
    """
    slices = [(layout.first_kv_head, layout.num_kv_heads) for layout in destinations]
    return [
        routes_between(sources, layout, replica=slices[:rank].count(slices[rank]))
        for rank, layout in enumerate(destinations)
    ]


@lru_cache(maxsize=256)
def rank_pairs(source: KvLayout, destination: KvLayout) -> tuple[RankPair, ...]:
    """The rank pairs of a link between two workers. Raises CannotExchange.

    They are in the order of destination ranks and their heads; no two connect the same ranks.
    Between workers of one rank each there is one.
    """
    sources = [source.of_rank(rank) for rank in range(source.num_ranks)]
    destinations = [destination.of_rank(rank) for rank in range(destination.num_ranks)]
    return tuple(
        RankPair(route.source_rank, rank, route.heads)
        for rank, routes in enumerate(head_routes(sources, destinations))
        for route in routes
    )


def routes_between(
    sources: Sequence[KvLayout], destination: KvLayout, replica: int = 0
) -> list[HeadRoute]:
    """The routes of one destination rank's heads: one source rank for each head.

    `sources` are the layouts of all source ranks, `replica` is the number of destination ranks
    before this one that hold the same heads. Routes are in the order of heads and do not overlap.
    Raises CannotExchange when layouts do not fit or no source holds a head.
    """
    for source in sources:
        check_exchange(source, destination)
    ranks = [_source_rank(sources, head, replica) for head in destination.heads]
    cuts = [i for i, (left, right) in enumerate(pairwise(ranks), 1) if left != right]
    return [
        HeadRoute(ranks[start], destination.heads[start:stop])
        for start, stop in pairwise([0, *cuts, len(ranks)])
    ]


def _source_rank(sources: Sequence[KvLayout], head: int, replica: int) -> int:
    """The rank that sends a head: replicas of it take turns, so that they share the load."""
    holders = [rank for rank, layout in enumerate(sources) if head in layout.heads]
    if not holders:
        raise CannotExchange(f"none of {len(sources)} source ranks holds KV head {head}")
    held = sources[holders[0]]
    turn = held.first_kv_head // held.num_kv_heads + replica
    return holders[turn % len(holders)]
