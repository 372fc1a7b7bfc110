"""Orders for steps: whatever changes between two steps, other ranks read what was written."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.step_inputs import StepSlice
from engine.runner import Slice
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams
from worker.ranks.orders import Order, RunStep
from worker.ranks.step_orders import StepReader, StepWriter

pytestmark = pytest.mark.quick

NAMES = "abcd"
changes = st.one_of(
    st.lists(st.integers(0, 5), max_size=4).map(lambda blocks: ("append", blocks)),
    st.lists(st.integers(0, 5), max_size=6).map(lambda blocks: ("replace", blocks)),
    st.just(("pause", [])),
)
steps = st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, changes)), min_size=1)


def a_piece(name: str, blocks: list[int]) -> tuple[StepSlice, Slice]:
    sequence = Sequence(AttemptId(name), [1, 2, 3], SamplingParams(max_tokens=9))
    return StepSlice(2, 1, blocks, [3], None, 3, 1, len(blocks) % 2), Slice(sequence, 2, 1)


def written(writer: StepWriter, step: dict[str, list[int]]) -> tuple[list[StepSlice], RunStep]:
    pairs = [a_piece(name, blocks) for name, blocks in step.items()]
    pieces, slices = [piece for piece, _ in pairs], [slice for _, slice in pairs]
    frame = msgspec.msgpack.encode(writer.write(pieces, slices, by_layers=False))
    order = msgspec.msgpack.decode(frame, type=Order)
    assert isinstance(order, RunStep)
    return pieces, order


@given(steps)
def test_every_step_is_read_as_it_was_written(
    steps: list[dict[str, tuple[str, list[int]]]],
) -> None:
    """Tables grow and are replaced; sequences come, pause and come again."""
    writer, reader = StepWriter(), StepReader()
    tables: dict[str, list[int]] = {name: [] for name in NAMES}
    for step in steps:
        for name, (change, blocks) in step.items():
            if change == "append":
                tables[name] += blocks
            elif change == "replace":
                tables[name] = blocks
        runs = {name: tables[name] for name, (change, _) in step.items() if change != "pause"}
        pieces, order = written(writer, runs)
        assert reader.read(order) == pieces


def test_of_a_sequence_that_goes_on_only_new_blocks_are_written() -> None:
    writer, reader = StepWriter(), StepReader()
    blocks, other = [7, 8], [5]
    reader.read(written(writer, {"a": blocks, "b": other})[1])
    blocks.append(9)  # the engine appends to the list that was written
    pieces, order = written(writer, {"b": other, "a": blocks})
    assert [piece.blocks for piece in order.slices] == [[], [9]]
    assert reader.read(order) == pieces


def test_a_token_that_only_the_device_knows_is_told_by_its_row() -> None:
    piece = StepSlice(3, 1, [4], [], 2, 3, 1)
    slice = a_piece("a", [4])[1]
    step = StepWriter().write([piece], [slice], by_layers=True)
    assert step.by_layers
    assert StepReader().read(step) == [piece]
