"""A step loop whose steps take time on a clock that only the test moves."""

from __future__ import annotations

import pytest

from tests.worker.bench import Bench
from wire.messages import Prefilled
from worker.steps.step_loop import TICK_S

pytestmark = pytest.mark.quick


def test_a_step_takes_the_time_between_its_plan_and_its_end() -> None:
    bench = Bench(chunk_tokens=8)
    loop = bench.prefill.loop
    bench.submit("r", list(range(1, 9)), max_tokens=2, alone=True)
    slices = loop.plan()
    bench.now += 0.5
    assert loop.compute(slices)
    assert loop.load().totals.step_s == 0.5
    bench.deliver()
    (prefilled,) = bench.told(Prefilled)
    assert isinstance(prefilled, Prefilled)
    assert prefilled.prefill_s == 0.5


def test_what_is_called_during_a_step_waits_for_its_end() -> None:
    bench = Bench(chunk_tokens=8)
    loop = bench.prefill.loop
    attempt_id = bench.submit("r", list(range(1, 9)), alone=True)
    slices = loop.plan()
    loop.call(lambda: loop.attempts.cancel(attempt_id))
    loop.compute(slices)
    assert not loop.idle
    assert loop.plan() == []
    assert loop.idle
    bench.check_nothing_is_held()


def test_a_loop_says_how_long_it_needs_no_turn() -> None:
    bench = Bench(chunk_tokens=8)
    loop = bench.prefill.loop
    assert not loop.turn()
    assert loop.idle_s == TICK_S
    bench.now += TICK_S / 2
    assert loop.idle_s == TICK_S / 2
    bench.submit("r", list(range(1, 9)), alone=True)
    loop.turn()
    assert loop.idle_s == 0.0
