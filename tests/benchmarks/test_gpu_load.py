"""Goodput as benchmarks.gpu counts it."""

from __future__ import annotations

import pytest

from benchmarks.gpu.load import Served, Shape, Targets, throughput, worst

pytestmark = pytest.mark.quick

SERVED = [
    Served(arrival_s=0.0, first_s=0.1, last_s=1.1, num_tokens=11),
    Served(arrival_s=1.0, first_s=1.5, last_s=2.5, num_tokens=11),
    Served(arrival_s=2.0, first_s=2.1, last_s=4.1, num_tokens=11),
    Served(arrival_s=3.0, first_s=3.1, last_s=4.0, num_tokens=1),
]


def test_times_are_those_of_the_first_token_and_of_each_further_one() -> None:
    assert SERVED[1].ttft_s == 0.5
    assert SERVED[2].tpot_s == pytest.approx(0.2)


def test_only_requests_that_keep_both_targets_count() -> None:
    assert throughput(SERVED) == pytest.approx(4 / 4.1)
    assert throughput(SERVED, Targets(ttft_s=0.2, tpot_s=0.15)) == pytest.approx(1 / 4.1)
    assert throughput(SERVED, Targets(ttft_s=0.6, tpot_s=0.15)) == pytest.approx(2 / 4.1)


def test_the_worst_are_told_without_the_last_tenth() -> None:
    assert worst([float(number) for number in range(100, 0, -1)]) == 90.0
    assert worst([1.0]) == 1.0


def test_requests_are_the_same_for_the_same_seed_and_of_the_shape() -> None:
    shape = Shape(prompt=7, output=3, vocab_size=50)
    one, other = shape.requests(2, seed=1), shape.requests(2, seed=2)
    assert one == shape.requests(2, seed=1)
    assert one != other
    assert [len(it.token_ids.ids) for it in one] == [7, 7]
    assert one[0].max_tokens == 3
