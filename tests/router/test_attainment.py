"""Attainment of targets, learned from ended requests, and the activity of workers."""

from __future__ import annotations

import pytest

from router.roles.activity import ActivityMeter
from router.roles.attainment import KEPT_S, AttainmentMeter
from runtime.handoffs import PairTotals
from wire.identity import WorkerRef
from wire.reports import WorkerTotals

pytestmark = pytest.mark.quick

WORKER = WorkerRef("decode-0", 1)


def test_each_target_is_counted_by_the_requests_that_have_it() -> None:
    meter = AttainmentMeter()
    meter.ended(0.5, 0.01, 1.0, None, 1.0)
    meter.ended(1.5, 0.01, 1.0, 0.02, 1.0)
    found = meter.over(60, 2.0)
    assert (found.num_ended, found.ttft.num, found.tpot.num) == (2, 2, 1)
    assert found.ttft.share == 0.5
    assert found.tpot.share == 1.0


def test_a_refused_request_misses_the_targets_that_it_had() -> None:
    meter = AttainmentMeter()
    meter.refused(1.0, None, 1.0)
    found = meter.over(60, 1.0)
    assert (found.num_ended, found.num_refused) == (1, 1)
    assert found.ttft.share == 0.0
    assert found.tpot.share is None


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    meter = AttainmentMeter()
    meter.ended(0.5, None, 1.0, 0.02, 1.0)
    assert meter.over(60, 1.0).tpot.num == 0


def test_requests_leave_the_window_and_are_forgotten() -> None:
    meter = AttainmentMeter()
    meter.ended(5.0, None, 1.0, None, 0.0)
    meter.ended(0.5, None, 1.0, None, 100.0)
    assert meter.over(60, 100.0).ttft.share == 1.0
    assert meter.over(KEPT_S, 100.0).ttft.share == 0.5
    meter.ended(0.5, None, 1.0, None, KEPT_S + 50)
    assert meter.over(KEPT_S, KEPT_S + 50).num_ended == 2


def test_differences_of_counters_are_rates() -> None:
    meter = ActivityMeter()
    before = WorkerTotals(num_steps=10, step_s=1.0, prefilled_tokens=100, generated_tokens=50)
    after = WorkerTotals(num_steps=110, step_s=6.0, prefilled_tokens=1100, generated_tokens=450)
    ends = ("prefill-0", "decode-0")
    meter.sample({WORKER: before}, {}, 0.0)
    assert meter.workers() == {}
    meter.sample({WORKER: after}, {ends: PairTotals(num=4, num_bytes=1000, exposed_s=2.0)}, 10.0)
    worker, link = meter.workers()[WORKER], meter.links()[ends]
    assert (worker.busy, worker.step_s) == (0.5, 0.05)
    assert (worker.prefilled_per_s, worker.generated_per_s) == (100, 40)
    assert (link.bytes_per_s, link.handoffs_per_s, link.exposed_s) == (100, 0.4, 0.5)


def test_a_new_worker_and_a_quiet_one_have_no_step_time() -> None:
    meter = ActivityMeter()
    meter.sample({}, {}, 0.0)
    meter.sample({WORKER: WorkerTotals()}, {}, 5.0)
    assert meter.workers() == {}
    for number in range(2, 10):
        meter.sample({WORKER: WorkerTotals()}, {}, 5.0 * number)
    assert meter.workers()[WORKER].step_s is None
