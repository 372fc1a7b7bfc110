"""The policies that benchmarks.placement compares, on a few requests."""

from __future__ import annotations

import pytest

from benchmarks.placement.policies import (
    ALL_ADMITTED,
    OURS,
    POLICIES,
    Policy,
    Setting,
    goodput,
    run,
)
from sim.machine import MachineModel
from tests.sim.clusters import LOAD

pytestmark = pytest.mark.quick

SETTING = Setting(MachineModel(), num_prefill=2, num_decode=2)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_request_is_answered_or_refused(policy: Policy) -> None:
    results = run(policy, LOAD, SETTING)
    assert len(results) == len(LOAD)
    for each in results:
        assert (each.last_s is None) == (each.refused_s is not None)


def test_predictions_of_the_first_token_are_good() -> None:
    errors = []
    for each in run(ALL_ADMITTED, LOAD, SETTING):
        assert each.ttft_s is not None
        assert each.placement is not None
        errors.append(abs(each.ttft_s - each.placement.ttft_s) / each.ttft_s)
    assert sorted(errors)[len(errors) // 2] < 0.3


def test_a_share_of_the_requests_is_within_targets() -> None:
    assert 0.0 < goodput(run(OURS, LOAD, SETTING)) <= 1.0
