"""Block tables that are kept are those that would be made anew."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.attention.backend import SequenceRows
from engine.runners.persistent_tables import PersistentTables

pytestmark = pytest.mark.quick

NUM_COLUMNS, MOST_BLOCKS = 4, 9


def taken(tables: PersistentTables, lists: list[list[int]]) -> np.ndarray:
    rows = [SequenceRows(4 * len(blocks) - 1, 1, blocks) for blocks in lists]
    into = np.full((max(map(len, lists)), len(lists)), -1, dtype=np.int32)
    tables.take(tables.columns(rows), into)
    return into


def assert_holds(tables: PersistentTables, lists: list[list[int]]) -> None:
    made = taken(tables, lists)
    for row, blocks in enumerate(lists):
        assert made[: len(blocks), row].tolist() == blocks


def test_a_table_grows_with_its_sequence() -> None:
    tables, blocks = PersistentTables(NUM_COLUMNS, MOST_BLOCKS), [5, 3]
    assert_holds(tables, [blocks])
    blocks += [8, 2]
    assert_holds(tables, [blocks])


def test_a_sequence_keeps_its_column_whatever_its_row_is() -> None:
    tables, lists = PersistentTables(NUM_COLUMNS, MOST_BLOCKS), [[1], [2, 3], [4]]
    rows = [SequenceRows(0, 1, blocks) for blocks in lists]
    before = tables.columns(rows)
    assert tables.columns(rows[::-1]) == before[::-1]
    assert tables.columns(rows[1:]) == before[1:]


def test_a_sequence_that_runs_again_has_other_blocks() -> None:
    tables = PersistentTables(NUM_COLUMNS, MOST_BLOCKS)
    assert_holds(tables, [[1, 2, 3], [4]])
    assert_holds(tables, [[7, 8, 9], [4]])


def test_columns_of_former_sequences_are_reused() -> None:
    tables = PersistentTables(NUM_COLUMNS, MOST_BLOCKS)
    stays = [1, 2]
    for number in range(20):
        assert_holds(tables, [[10 + number, 50], stays, [100 + number]])


@pytest.mark.parametrize("seed", range(20))
def test_sequences_come_grow_wait_and_go_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    tables = PersistentTables(NUM_COLUMNS, MOST_BLOCKS)
    lists = [[chance.randrange(1000)] for _ in range(7)]
    for _ in range(60):
        in_step = chance.sample(lists, chance.randint(1, NUM_COLUMNS))
        assert_holds(tables, in_step)
        for blocks in in_step:
            if len(blocks) < MOST_BLOCKS and chance.random() < 0.4:
                blocks.append(chance.randrange(1000))
        if chance.random() < 0.3:  # one ends, and another takes its place, or it runs again
            lists[chance.randrange(len(lists))] = [chance.randrange(1000) for _ in range(3)]
