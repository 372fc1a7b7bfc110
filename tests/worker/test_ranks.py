"""A cache that is spread over ranks reaches any other number of ranks, and decodes there alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from kv_transfer.layout.convert import stage
from kv_transfer.layout.head_routes import head_routes
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.transport import Transport
from tests.kv_transfer.pools import Pool, a_region
from tests.kv_transfer.ranks import DEGREES, ranks
from tests.worker.models import MAX_TOKENS, PROMPT, Model, scattered
from wire.layout import KvLayout

SIZES = (4, 16, 64)
ORDERS = ("kv", "vk")
STAGING_BYTES = 1 << 18
MakeLink = Callable[[str], Transport]

every_degree_pair = pytest.mark.parametrize(("degree", "other"), list(product(DEGREES, repeat=2)))
every_size_pair = pytest.mark.parametrize(
    ("block_size", "page_size"), list(product(SIZES, repeat=2))
)


class Rank:
    """One rank's pool, its staging memory, and its end of every link."""

    def __init__(self, name: str, layout: KvLayout, make_link: MakeLink) -> None:
        self.pool = Pool(layout, MAX_TOKENS // layout.block_size)
        self.blocks = scattered(self.pool)
        self.staging = torch.zeros(STAGING_BYTES, dtype=torch.uint8)
        self.link = make_link(name)
        self.link.register(self.pool.region, self.pool.num_blocks, a_region(self.staging))

    def feed(self, other: Rank, heads: range, *, staged: bool) -> None:
        """Write these heads of the prompt into the other's pool."""
        link = f"{id(self)} to {id(other)}"
        self.link.connect(link, other.link.admit(link))
        spans = (self._staged_spans if staged else self._spans)(other, heads)
        transfer = self.link.write_spans(link, spans, staged=staged)
        while not transfer.done():
            pass

    def _spans(self, other: Rank, heads: range) -> np.ndarray:
        found = plan(self.pool.layout, other.pool.layout, heads)
        return found.spans(self.blocks, other.blocks, len(PROMPT))

    def _staged_spans(self, other: Rank, heads: range) -> np.ndarray:
        layout = staging_layout(other.pool.layout, heads)
        source = self.pool
        staged = stage(source.memory, source.layout, layout, self.blocks, len(PROMPT))
        self.staging[: len(staged)] = staged
        held = range(layout.num_blocks(len(PROMPT)))
        return plan(layout, other.pool.layout, heads).spans(held, other.blocks, len(PROMPT))


class Side:
    """All ranks of one model."""

    def __init__(self, name: str, model: KvLayout, degree: int, make_link: MakeLink) -> None:
        self.ranks = [
            Rank(f"{name} {number}", layout, make_link)
            for number, layout in enumerate(ranks(model, degree))
        ]

    @property
    def layouts(self) -> list[KvLayout]:
        return [rank.pool.layout for rank in self.ranks]

    def put(self, cache: Tensor) -> None:
        """[tokens, layers, 2, heads, head_size], of which each rank gets its heads."""
        for rank in self.ranks:
            heads = rank.pool.layout.heads
            rank.pool.put(rank.blocks, cache[:, :, :, heads.start : heads.stop])

    def get(self) -> Tensor:
        """The same of what lies here; ranks with the same heads have the same."""
        heads: dict[int, Tensor] = {}
        for rank in self.ranks:
            tokens = rank.pool.get(rank.blocks, len(PROMPT))
            for head, strip in zip(rank.pool.layout.heads, tokens.unbind(3), strict=True):
                assert torch.equal(heads.setdefault(head, strip), strip)
        return torch.stack([heads[head] for head in sorted(heads)], dim=3)

    def close(self) -> None:
        for rank in self.ranks:
            rank.link.close()


def over_memory() -> MakeLink:
    fabric = MemoryFabric()
    return lambda name: MemoryTransport(name, fabric)


def over_nixl() -> MakeLink:
    return lambda name: NixlTransport(f"{name} {os.getpid()}", {"UCX_NET_DEVICES": "lo"})


def moved(
    cache: Tensor,
    ours: tuple[KvLayout, int],
    theirs: tuple[KvLayout, int],
    make_link: MakeLink,
    *,
    staged: bool = False,
) -> Tensor:
    """What has come of the cache at the other side's ranks."""
    sides = Side("source", *ours, make_link), Side("destination", *theirs, make_link)
    sides[0].put(cache)
    feeds = head_routes(sides[0].layouts, sides[1].layouts)
    for rank, wanted in zip(sides[1].ranks, feeds, strict=True):
        for feed in wanted:
            sides[0].ranks[feed.source_rank].feed(rank, feed.heads, staged=staged)
    found = sides[1].get()
    for side in sides:
        side.close()
    return found


def like(model: Model, **changes: object) -> KvLayout:
    return msgspec.structs.replace(model.layout, **changes)


def decoded(model: Model, cache: Tensor, dtype: str, block_size: int) -> list[int]:
    first = model.prefilled("float32").first
    return model.decoded(cache, dtype, block_size, first)


@every_size_pair
@every_degree_pair
def test_tokens_are_those_of_one_worker_alone_whatever_the_number_of_ranks(
    model: Model, degree: int, other: int, block_size: int, page_size: int
) -> None:
    ours, theirs = like(model, block_size=block_size), like(model, block_size=page_size)
    cache = model.prefilled("float32").cache
    found = moved(cache, (ours, degree), (theirs, other), over_memory())
    assert decoded(model, found, "float32", page_size) == model.alone("float32", page_size)


@pytest.mark.parametrize(("order", "other_order"), list(product(ORDERS, repeat=2)))
@every_degree_pair
def test_keys_stay_keys_whatever_their_order(
    model: Model, degree: int, other: int, order: str, other_order: str
) -> None:
    cache = model.prefilled("float32").cache
    for block_size, page_size in product(SIZES, repeat=2):
        ours = like(model, block_size=block_size, kv_order=order)
        theirs = like(model, block_size=page_size, kv_order=other_order)
        found = moved(cache, (ours, degree), (theirs, other), over_memory())
        assert torch.equal(found, cache)


@pytest.mark.parametrize("staged", [False, True])
@every_degree_pair
def test_gathered_first_or_not_the_same_arrives(
    model: Model, degree: int, other: int, staged: bool
) -> None:
    ours, theirs = like(model, block_size=64), like(model, block_size=4, kv_order="vk")
    cache = model.prefilled("float32").cache
    found = moved(cache, (ours, degree), (theirs, other), over_memory(), staged=staged)
    assert torch.equal(found, cache)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every_degree_pair
def test_values_are_converted_on_their_way_to_other_ranks(
    model: Model, degree: int, other: int, dtype: str
) -> None:
    ours, theirs = like(model, kv_order="vk"), like(model, block_size=64, dtype=dtype)
    cache = model.prefilled("float32").cache
    plain = cache.to(getattr(torch, dtype))
    found = moved(cache, (ours, degree), (theirs, other), over_memory(), staged=True)
    assert torch.equal(found, plain)
    assert decoded(model, found, dtype, 64) == model.converted("float32", dtype, 64)


@pytest.mark.parametrize(("degree", "other"), [(2, 4), (4, 1), (1, 8)])
def test_over_nixl_the_tokens_are_the_same(model: Model, degree: int, other: int) -> None:
    ours, theirs = like(model, block_size=16), like(model, block_size=64, kv_order="vk")
    cache = model.prefilled("float32").cache
    found = moved(cache, (ours, degree), (theirs, other), over_nixl())
    assert torch.equal(found, cache)
    assert decoded(model, found, "float32", 64) == model.alone("float32", 64)
