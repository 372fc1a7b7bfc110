"""Paged decode attention, interpreted: contexts of all lengths, whole and split."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("triton")

from engine.attention.tables import TritonTables
from engine.cuda import decode_kernels, operations, splits
from engine.cuda.splits import KEYS, SHORT, Splits, split_contexts
from tests.cuda.aot import launches_of
from tests.cuda.paged import PagedContexts

interpreted = pytest.mark.usefixtures("interpreted_kernels")

UNEVEN = (1, 64, 65, 500, 129)


def use_spare_items(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(splits, "spare_items", lambda device, num_kv_heads: number)


def split(ends: list[int], window: int | None, width: int = 4096) -> Splits:
    """Splits of one head of two numbers."""
    query, cache = torch.zeros(len(ends), 1, 2), torch.zeros(1, 2, 1, 16, 2)
    tables = torch.zeros(width, len(ends), dtype=torch.int32)
    made = split_contexts(query, cache, tables, torch.tensor(ends) - 1, window)
    assert made is not None
    return made


@interpreted
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("spare", [0, 1, 20])
def test_uneven_contexts_attend_by_the_plain_formula(
    window: int | None, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_spare_items(monkeypatch, spare)
    contexts = PagedContexts(UNEVEN, torch.float32, num_kv_heads=1)
    given = contexts.cache, None, contexts.tables, contexts.positions
    attended = operations.decode(contexts.query, *given, window)
    torch.testing.assert_close(attended, contexts.expected(window))


@interpreted
def test_more_splits_than_are_combined_at_a_time_attend_by_the_plain_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_spare_items(monkeypatch, 20)
    assert 1300 / KEYS > operations.COMBINED
    contexts = PagedContexts((5, 1300), torch.float32, num_heads=1, num_kv_heads=1)
    contexts.cache[contexts.tables[70:82, 1].long()] *= 4  # the largest scores come last
    given = contexts.cache, None, contexts.tables, contexts.positions
    attended = operations.decode(contexts.query, *given, None)
    torch.testing.assert_close(attended, contexts.expected(None))


@interpreted
@pytest.mark.parametrize("window", [None, 1, 20, 64])
def test_short_contexts_attend_whole(window: int | None) -> None:
    contexts = PagedContexts((1, 16, 17, 150), torch.float32)
    assert contexts.tables.shape[0] * 16 <= SHORT
    given = contexts.cache, None, contexts.tables, contexts.positions
    attended = operations.decode(contexts.query, *given, window)
    torch.testing.assert_close(attended, contexts.expected(window))


@interpreted
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (7, 1), (8, 1), (12, 1)])
def test_heads_share_keys_in_groups_of_any_size(heads: tuple[int, int]) -> None:
    contexts = PagedContexts((70, 300), torch.float32, num_heads=heads[0], num_kv_heads=heads[1])
    given = contexts.cache, None, contexts.tables, contexts.positions
    attended = operations.decode(contexts.query, *given, None)
    torch.testing.assert_close(attended, contexts.expected(None))


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored_as", [None, torch.float8_e4m3fn])
def test_narrow_numbers_and_scaled_ones_attend_alike(
    dtype: torch.dtype, stored_as: torch.dtype | None
) -> None:
    contexts = PagedContexts((17, 300), dtype, stored_as=stored_as)
    given = contexts.cache, contexts.scales, contexts.tables, contexts.positions
    attended = operations.decode(contexts.query, *given, None)
    assert attended.dtype == dtype
    torch.testing.assert_close(attended.float(), contexts.expected(None), atol=0.02, rtol=0.02)


@interpreted
@pytest.mark.parametrize("window", [None, 1000])
@pytest.mark.parametrize("rows", [1, 3, 64, 200])
def test_each_key_belongs_to_one_item(
    rows: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_spare_items(monkeypatch, 66)
    drawn = random.Random(rows)
    ends = [int(2 ** drawn.uniform(0, 15)) for _ in range(rows)]
    made = split(ends, window)
    firsts = made.firsts.tolist()
    items = made.items.T.tolist()
    assert made.capacity == rows + 66
    assert firsts[-1] <= made.capacity
    assert all(low == high for _, low, high in items[firsts[-1] :])
    for row, end in enumerate(ends):
        reached = max(0, end - (window or end))
        for owner, low, high in items[firsts[row] : firsts[row + 1]]:
            assert (owner, low) == (row, reached)
            assert high > low
            reached = high
        assert reached == end


@interpreted
def test_one_long_context_beside_many_short_ones_is_many_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_spare_items(monkeypatch, 66)
    firsts = split([500] * 255 + [32_000], None).firsts
    assert firsts[-1] - firsts[-2] >= 50
    assert firsts[:-1].equal(torch.arange(256, dtype=torch.int32))


@interpreted
def test_contexts_of_one_length_are_split_only_as_far_as_there_are_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_spare_items(monkeypatch, 66)
    assert split([500] * 256, None).firsts[-1] == 256
    assert split([512], None).firsts[-1] == 512 // KEYS
    assert split([8192] * 3, None).firsts[-1] > 60


@interpreted
def test_memory_for_splits_does_not_grow_with_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    use_spare_items(monkeypatch, 66)
    short, long = split([300], None, width=64), split([300], None, width=8192)
    assert short.partial.shape == long.partial.shape == (67, 1, 2)


def test_layers_of_one_window_share_their_splits() -> None:
    cache = torch.zeros(4, 3, 2, 1, 16, 8)
    tables = TritonTables(cache, (None, None, 500), torch.float32)
    positions = torch.tensor([7, 20])
    batch = tables.batch(torch.zeros(200, 2, dtype=torch.int32), positions)
    with launches_of(decode_kernels) as launches:
        for layer in range(3):
            batch.read(layer, torch.zeros(2, 4, 8))
    layer_kernels = ["decode", "combine"]
    plan = ["plan_splits"]
    assert [launch.name for launch in launches] == [
        *(plan + layer_kernels),
        *layer_kernels,
        *(plan + layer_kernels),
    ]
