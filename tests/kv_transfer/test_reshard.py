from collections import Counter
from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.errors import BadPeer
from kv_transfer.layout.head_routes import (
    CannotExchange,
    can_exchange,
    check_exchange,
    head_routes,
    routes_between,
)
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.layout.spans import merge
from tests.kv_transfer.ranks import (
    DEGREES,
    all_heads,
    block_ids,
    model_pairs,
    moved_by_hand,
    moved_by_spans,
    num_runs,
    ranks,
)
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

MODEL = KvLayout(num_layers=2, num_kv_heads=4, head_size=2, block_size=4, dtype="float16")
BIG = KvLayout(num_layers=8, num_kv_heads=8, head_size=128, block_size=16, dtype="bfloat16")


def like(layout: KvLayout, **changes: object) -> KvLayout:
    return msgspec.structs.replace(layout, **changes)


@given(st.data(), model_pairs(), st.sampled_from(DEGREES), st.sampled_from(DEGREES))
@settings(max_examples=200)
def test_spans_of_all_ranks_move_each_byte_as_moving_by_hand_does(
    data: st.DataObject, models: tuple[KvLayout, KvLayout], from_degree: int, to_degree: int
) -> None:
    num_tokens = data.draw(st.integers(1, 2 * max(model.block_size for model in models)))
    pool = max(model.num_blocks(num_tokens) for model in models) + 2
    sources, destinations = ranks(models[0], from_degree), ranks(models[1], to_degree)
    blocks = data.draw(block_ids(models[0], num_tokens, pool))
    remote_blocks = data.draw(block_ids(models[1], num_tokens, pool))
    rank = data.draw(st.integers(0, to_degree - 1))
    written, routes = 0, head_routes(sources, destinations)[rank]
    for route in routes:
        source, destination = sources[route.source_rank], destinations[rank]
        found = plan(source, destination, route.heads)
        spans = found.spans(blocks, remote_blocks, num_tokens)
        came_from = moved_by_spans(spans, pool * destination.block_bytes)
        expected = moved_by_hand(
            source, destination, blocks, remote_blocks, range(num_tokens), route.heads, pool
        )
        np.testing.assert_array_equal(came_from, expected)
        assert len(spans) == num_runs(expected)
        assert len(found.spans(blocks, remote_blocks, found.padded(num_tokens))) <= (
            found.num_pieces(num_tokens)
        )
        written += int((came_from >= 0).sum())
    assert all_heads(routes) == list(destinations[rank].heads)
    assert written == num_tokens * destinations[rank].token_bytes


@given(st.data(), model_pairs(dtype="float8_e4m3fn"))
@settings(max_examples=60)
def test_scales_travel_with_their_blocks(
    data: st.DataObject, models: tuple[KvLayout, KvLayout]
) -> None:
    source, destination = sorted(models, key=lambda model: -model.block_size)
    num_tokens = data.draw(st.integers(1, 2 * source.block_size))
    pool = destination.num_blocks(num_tokens) + 1
    blocks = data.draw(block_ids(source, num_tokens, pool))
    remote_blocks = data.draw(block_ids(destination, num_tokens, pool))
    spans = plan(source, destination).spans(blocks, remote_blocks, num_tokens)
    expected = moved_by_hand(
        source, destination, blocks, remote_blocks, range(num_tokens), source.heads, pool
    )
    came_from = moved_by_spans(spans, pool * destination.block_bytes)
    np.testing.assert_array_equal(came_from, expected)
    assert len(spans) == num_runs(expected)


@given(st.data(), model_pairs())
@settings(max_examples=60)
def test_tokens_that_went_before_are_left_alone(
    data: st.DataObject, models: tuple[KvLayout, KvLayout]
) -> None:
    source, destination = models
    found = plan(source, destination)
    num_tokens = data.draw(st.integers(1, 2 * max(model.block_size for model in models)))
    first = data.draw(st.integers(0, num_tokens // found.granule_size)) * found.granule_size
    pool = max(model.num_blocks(num_tokens) for model in models)
    blocks, remote_blocks = list(range(pool)), list(reversed(range(pool)))
    spans = found.spans(blocks, remote_blocks, num_tokens, first_token=first)
    tokens = range(first, num_tokens)
    expected = moved_by_hand(source, destination, blocks, remote_blocks, tokens, source.heads, pool)
    came_from = moved_by_spans(spans, pool * destination.block_bytes)
    np.testing.assert_array_equal(came_from, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_equal_layouts_need_one_span_a_run_of_blocks(dtype: str) -> None:
    layout = like(MODEL, dtype=dtype)
    size = layout.block_bytes
    spans = plan(layout, layout).spans([5, 6, 7, 2, 9], [1, 2, 3, 4, 0], 20)
    assert spans.tolist() == [
        [9 * size, 0, size],
        [5 * size, 1 * size, 3 * size],
        [2 * size, 4 * size, size],
    ]


def test_padding_the_last_block_saves_its_pieces() -> None:
    found = plan(MODEL, MODEL)
    assert found.padded(6) == 8
    assert len(found.spans([0, 1], [3, 4], 6)) == 16
    assert found.spans([0, 1], [3, 4], 8).tolist() == [
        [0, 3 * MODEL.block_bytes, 2 * MODEL.block_bytes]
    ]


def test_neighbouring_heads_of_a_rank_travel_as_one_piece() -> None:
    """TP1 to TP2: one piece for each layer's keys, and for its values."""
    half = ranks(BIG, 2)[1]
    spans = plan(BIG, half).spans([0], [0], 16)
    assert spans[:, 2].tolist() == [4 * 16 * 128 * 2] * 16
    assert plan(BIG, half).num_pieces(16) == 16


def test_ranks_without_common_heads_exchange_nothing() -> None:
    left, right = ranks(MODEL, 2)
    assert plan(left, right).spans([0, 1], [0, 1], 8).shape == (0, 3)
    assert plan(left, left).spans([], [], 0).shape == (0, 3)


@pytest.mark.parametrize(("heads", "sources", "destinations"), list(product(DEGREES, repeat=3)))
def test_each_head_has_one_source_and_replicas_share_the_load(
    heads: int, sources: int, destinations: int
) -> None:
    model = like(MODEL, num_kv_heads=heads)
    sides = ranks(model, sources), ranks(model, destinations)
    found = head_routes(*sides)
    assert found == head_routes(*sides)
    for routes, destination in zip(found, sides[1], strict=True):
        assert all_heads(routes) == list(destination.heads)
    loads = Counter(
        (route.source_rank, head) for routes in found for route in routes for head in route.heads
    )
    for head in range(heads):
        holders = [rank for rank, layout in enumerate(sides[0]) if head in layout.heads]
        shares = [loads.pop((rank, head), 0) for rank in holders]
        assert max(shares) - min(shares) <= 1
    assert not loads


def test_a_head_that_no_source_holds_is_an_error() -> None:
    with pytest.raises(CannotExchange, match="holds KV head 2"):
        routes_between(ranks(MODEL, 2)[:1], MODEL)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_layers": 3}, "num_layers is 2 and 3"),
        ({"head_size": 4}, "head_size is 2 and 4"),
        ({"num_kv_heads": 8}, "the model has 4 and 8 KV heads"),
        ({"block_size": 6}, "block_size is 4 and 6, of which neither divides the other"),
        ({"dtype": "int64"}, "dtype is float16 and int64"),
    ],
)
def test_what_cannot_be_exchanged_is_named(changes: dict[str, object], named: str) -> None:
    other = like(MODEL, **changes)
    assert not can_exchange(MODEL, other)
    assert not can_exchange(other, MODEL)
    with pytest.raises(BadPeer, match=named):
        check_exchange(MODEL, other)
    with pytest.raises(CannotExchange, match=named):
        plan(MODEL, other)


def test_all_differences_are_named_at_once() -> None:
    with pytest.raises(CannotExchange, match=r"num_layers is 2 and 9; head_size is 2 and 7"):
        check_exchange(MODEL, like(MODEL, num_layers=9, head_size=7))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (MODEL, like(MODEL, dtype="bfloat16")),
        (like(MODEL, dtype="float8_e4m3fn"), like(MODEL, dtype="float8_e4m3fn", block_size=8)),
    ],
)
def test_values_that_change_do_not_travel_directly(source: KvLayout, destination: KvLayout) -> None:
    assert can_exchange(source, destination)
    with pytest.raises(CannotExchange, match="staging"):
        plan(source, destination)


def test_blocks_and_tokens_must_fit() -> None:
    found = plan(MODEL, like(MODEL, block_size=8))
    with pytest.raises(ValueError, match="2 blocks of 4 tokens"):
        found.spans([0, 1], [0, 1], 9)
    with pytest.raises(ValueError, match="1 blocks of 8 tokens"):
        found.spans([0, 1, 2], [0], 9)
    with pytest.raises(ValueError, match="block -1"):
        found.spans([0, -1], [0], 8)
    with pytest.raises(ValueError, match="first_token"):
        found.spans([0, 1], [0], 8, first_token=2)
    with pytest.raises(CannotExchange, match="which both sides hold"):
        plan(MODEL, ranks(MODEL, 2)[0], range(1, 3))


def test_plans_are_kept() -> None:
    assert plan(MODEL, MODEL, range(4)) is plan(MODEL, MODEL, range(4))


def test_merging_ignores_the_order_of_pieces() -> None:
    pieces = np.array([[8, 108, 4], [0, 100, 4], [4, 104, 4], [12, 300, 4], [90, 112, 1]])
    assert merge(pieces).tolist() == [[0, 100, 12], [90, 112, 1], [12, 300, 4]]


def test_staged_blocks_of_a_whole_rank_travel_as_one_span() -> None:
    half = ranks(BIG, 2)[1]
    staged = staging_layout(half, half.heads)
    assert len(plan(staged, half).spans(range(4), range(3, 7), 64)) == 1


def test_a_layout_names_only_heads_that_the_model_has() -> None:
    with pytest.raises(ValueError, match="not within 4 KV heads"):
        like(MODEL, first_kv_head=3, num_kv_heads=2, total_kv_heads=4)
    with pytest.raises(ValueError, match="at least 1"):
        like(MODEL, block_size=0)
