"""A worker's layout, and those of its ranks."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from kv_transfer.layout.head_routes import can_exchange
from tests.kv_transfer.ranks import DEGREES, ranks
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

DTYPES = ("float16", "float8_e4m3fn")


def a_layout(num_kv_heads: int, num_ranks: int = 1, dtype: str = "float16") -> KvLayout:
    return KvLayout(
        num_layers=3,
        num_kv_heads=num_kv_heads,
        head_size=8,
        block_size=4,
        dtype=dtype,
        num_ranks=num_ranks,
    )


@pytest.mark.parametrize(("num_kv_heads", "degree"), list(product(DEGREES, repeat=2)))
def test_heads_are_spread_evenly_and_repeated_where_they_are_few(
    num_kv_heads: int, degree: int
) -> None:
    worker = a_layout(num_kv_heads, degree)
    found = [worker.of_rank(rank) for rank in range(degree)]
    if degree > 1:
        assert found == ranks(a_layout(num_kv_heads), degree)
    assert {head for layout in found for head in layout.heads} == set(range(num_kv_heads))


def test_a_worker_of_one_rank_is_its_only_rank() -> None:
    assert a_layout(4).of_rank(0) == a_layout(4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_kv_heads", "degree"), list(product(DEGREES, repeat=2)))
def test_a_worker_s_bytes_are_those_of_all_its_ranks(
    num_kv_heads: int, degree: int, dtype: str
) -> None:
    worker = a_layout(num_kv_heads, degree, dtype)
    found = [worker.of_rank(rank) for rank in range(degree)]
    for name in ("token_bytes", "value_bytes", "scale_bytes", "block_bytes", "layer_bytes"):
        assert getattr(worker, name) == sum(getattr(layout, name) for layout in found)


@pytest.mark.parametrize(("num_kv_heads", "degree"), [(4, 3), (6, 4), (3, 2)])
def test_heads_that_cannot_be_spread_evenly_are_named(num_kv_heads: int, degree: int) -> None:
    with pytest.raises(ValueError, match=f"{num_kv_heads} KV heads .* over {degree} ranks"):
        a_layout(num_kv_heads, degree)


def test_workers_of_all_degrees_can_exchange_blocks() -> None:
    layouts = [a_layout(4, degree) for degree in DEGREES]
    assert all(can_exchange(one, other) for one, other in product(layouts, repeat=2))
    assert not can_exchange(a_layout(4, 2), a_layout(8, 2))


def test_a_layout_keeps_its_ranks_on_the_wire() -> None:
    layout = a_layout(4, 2)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(layout), type=KvLayout) == layout
