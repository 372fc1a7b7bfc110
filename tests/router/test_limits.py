"""What a key may use, counted under a clock of one's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.access.keys import KeyLimits
from router.access.limits import NUM_CELLS, Bucket, Meter
from router.errors import OverQuota

pytestmark = pytest.mark.quick


def refused(call: Callable[[], None]) -> OverQuota:
    with pytest.raises(OverQuota) as caught:
        call()
    return caught.value


def retry_after(call: Callable[[], None]) -> float:
    seconds = refused(call).retry_after_s
    assert seconds is not None
    return seconds


def test_a_minute_s_worth_may_come_at_once_and_then_evenly() -> None:
    meter = Meter(KeyLimits(requests_per_minute=60), 0.0)
    for _ in range(60):
        meter.enter(0.0)
        meter.leave()
    assert retry_after(lambda: meter.enter(0.0)) == pytest.approx(1.0)
    assert retry_after(lambda: meter.enter(0.25)) == pytest.approx(0.75)
    meter.enter(1.0)
    refused(lambda: meter.enter(1.0))


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(0, 50)), max_size=40))
def test_who_comes_back_when_told_is_served(events: list[tuple[float, int]]) -> None:
    bucket, now = Bucket(60, [0.0] * NUM_CELLS, 0.0), 0.0
    for pause, amount in events:
        now += pause
        bucket.take(amount, now)
    wait = bucket.wait_s(7, now)
    if wait > 1e-3:
        assert bucket.wait_s(7, now + wait * 0.9) > 0
    assert bucket.wait_s(7, now + wait) == pytest.approx(0, abs=1e-6)


def test_a_clock_that_goes_backwards_gives_and_takes_nothing() -> None:
    bucket = Bucket(60, [0.0] * NUM_CELLS, 100.0)
    bucket.take(60, 100.0)
    assert bucket.wait_s(1, 50.0) == pytest.approx(1.0)
    assert bucket.wait_s(1, 101.0) == 0


def test_requests_under_way_are_bounded_and_leaving_makes_room() -> None:
    meter = Meter(KeyLimits(concurrency=2), 0.0)
    meter.enter(0.0)
    meter.enter(0.0)
    assert "2 requests" in str(refused(lambda: meter.enter(0.0)))
    meter.leave()
    meter.enter(0.0)


def test_a_refused_request_costs_nothing() -> None:
    meter = Meter(KeyLimits(requests_per_minute=2, concurrency=1), 0.0)
    meter.enter(0.0)
    refused(lambda: meter.enter(0.0))
    meter.leave()
    meter.enter(0.0)


def test_prompts_wait_for_the_tokens_that_answers_used_up() -> None:
    meter = Meter(KeyLimits(tokens_per_minute=600), 0.0)
    meter.enter(0.0)
    meter.take_prompt(100, 0.0)
    meter.take_output(700, 0.0)  # an answer that has begun is not cut off
    assert retry_after(lambda: meter.enter(0.0)) == pytest.approx(20.0)
    meter.enter(20.0)
    assert retry_after(lambda: meter.take_prompt(50, 20.0)) == pytest.approx(5.0)
    meter.take_prompt(50, 25.0)


def test_a_prompt_larger_than_a_minute_s_worth_waits_for_a_full_bucket_only() -> None:
    meter = Meter(KeyLimits(tokens_per_minute=60), 0.0)
    meter.take_prompt(90, 0.0)
    assert retry_after(lambda: meter.take_prompt(1, 0.0)) == pytest.approx(31.0)


def test_limits_change_without_forgetting_what_is_under_way() -> None:
    meter = Meter(KeyLimits(concurrency=1, requests_per_minute=2), 0.0)
    meter.enter(0.0)
    meter.set_limits(KeyLimits(concurrency=2, requests_per_minute=2), 0.0)
    meter.enter(0.0)
    refused(lambda: meter.enter(0.0))
    meter.leave()
    assert "2 requests per minute" in str(refused(lambda: meter.enter(0.0)))


def test_a_bucket_that_was_half_full_is_half_full_under_another_rate() -> None:
    meter = Meter(KeyLimits(tokens_per_minute=60), 0.0)
    meter.take_prompt(30, 0.0)
    meter.set_limits(KeyLimits(tokens_per_minute=600), 0.0)
    assert retry_after(lambda: meter.take_prompt(301, 0.0)) == pytest.approx(0.1)
    meter.take_prompt(300, 0.0)


def test_without_limits_nothing_is_refused() -> None:
    meter = Meter(KeyLimits(), 0.0)
    for _ in range(1000):
        meter.enter(0.0)
        meter.take_prompt(10**6, 0.0)
        meter.take_output(10**6, 0.0)
