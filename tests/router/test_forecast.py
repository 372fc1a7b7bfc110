"""How long a newcomer would wait."""

from __future__ import annotations

import random

import pytest

from router.queueing.fair_queue import FairQueue, Waiter
from router.queueing.forecast import LEAST_MARGIN, MOST_MARGIN, MOST_STREAMS, SAFE, Forecast

pytestmark = pytest.mark.quick


def waiter(key: str, tenant: str = "a", **options: float) -> Waiter:
    return Waiter(key=key, tenant=tenant, **{"work_s": 1.0, "target_s": 10.0, **options})  # type: ignore[arg-type]


def wait_s(queue: FairQueue, who: Waiter, forecast: Forecast | None = None) -> float:
    return (forecast or Forecast()).wait_s(queue, who, num_workers=2, now=0.0)


def test_an_empty_queue_takes_no_time() -> None:
    assert wait_s(FairQueue(), waiter("r")) == 0.0


def test_only_what_comes_before_counts() -> None:
    queue = FairQueue()
    for number in range(10):
        queue.add(waiter(f"h{number}", "heavy"))
    assert wait_s(queue, waiter("r", "heavy")) == pytest.approx(5.0)
    assert wait_s(queue, waiter("r", "heavy", target_s=9.0)) == 0.0
    assert wait_s(queue, waiter("r", "heavy", priority=-1)) == 0.0
    assert wait_s(queue, waiter("r", "light")) == 0.0
    assert wait_s(queue, waiter("r", "light", priority=1)) == pytest.approx(5.0)


def test_tenants_take_turns_by_what_they_have_had() -> None:
    queue = FairQueue()
    for number in range(10):
        queue.add(waiter(f"h{number}", "heavy"))
    for number in range(2):
        queue.add(waiter(f"l{number}", "light"))
    assert wait_s(queue, waiter("r", "light")) == pytest.approx((2 + 2) / 2)
    queue.charge("light", 3.0)
    assert wait_s(queue, waiter("r", "light")) == pytest.approx((2 + 5) / 2)


def test_what_others_will_bring_in_the_meantime_counts_as_far_as_it_goes_first() -> None:
    queue, forecast = FairQueue(), Forecast()
    for number in range(10):
        queue.add(waiter(f"h{number}", "heavy"))
    forecast.brought(waiter("l", "light", work_s=5.0), now=0.0)
    assert 6.0 < wait_s(queue, waiter("r", "heavy"), forecast) < 8.0
    assert wait_s(queue, waiter("r", "heavy", priority=-1), forecast) == 0.0
    for _ in range(100):
        forecast.brought(waiter("l", "light", work_s=5.0), now=0.0)
    assert wait_s(queue, waiter("r", "heavy"), forecast) == pytest.approx(10.0)


def test_what_was_brought_is_forgotten_with_time_and_is_bounded() -> None:
    queue, forecast = FairQueue(), Forecast()
    queue.add(waiter("h", "heavy", work_s=4.0))
    forecast.brought(waiter("l", "light", work_s=50.0), now=0.0)
    assert forecast.wait_s(queue, waiter("r", "heavy"), 2, now=500.0) == pytest.approx(2.0)
    forecast.brought(waiter("l", "light", work_s=50.0), now=0.0)
    assert wait_s(queue, waiter("r", "heavy"), forecast) > 3.0
    for number in range(MOST_STREAMS):
        forecast.brought(waiter("n", f"nothing{number}", work_s=0.0), now=0.0)
    assert wait_s(queue, waiter("r", "heavy"), forecast) == pytest.approx(2.0)


def test_how_fast_turns_come_is_learned_while_somebody_waits() -> None:
    forecast = Forecast()
    assert forecast.speed(2) == 2.0
    for number in range(100):
        forecast.turn(waiter("r"), others_wait=True, now=2.0 * number)
    assert forecast.speed(2) == pytest.approx(0.5, rel=0.3)
    forecast.turn(waiter("r"), others_wait=False, now=200.0)
    slow = forecast.speed(2)
    forecast.turn(waiter("r"), others_wait=True, now=9000.0)
    assert forecast.speed(2) == slow


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_the_margin_is_what_lets_most_keep_their_targets(spread: float) -> None:
    forecast, draw = Forecast(), random.Random(1)
    kept = []
    for _ in range(9000):
        took_s = draw.gauss(1.0, spread)
        kept.append(took_s <= forecast.safely(1.0))
        forecast.on_first_token(kept[-1])
    assert sum(kept[1000:]) / len(kept[1000:]) == pytest.approx(SAFE, abs=0.01)
    assert spread < forecast.margin < 4 * spread


def test_the_margin_is_bounded() -> None:
    forecast = Forecast()
    for in_time, margin in ((False, MOST_MARGIN), (True, LEAST_MARGIN)):
        for _ in range(5000):
            forecast.on_first_token(in_time)
        assert forecast.margin == margin
