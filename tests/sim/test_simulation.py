"""The ledger, placement and admission with real engines on a virtual clock."""

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
from router.placing.placement_request import Split
from router.queueing.admission import Admission
from sim import traces
from sim.machine import Device
from sim.simulation import Cluster

pytestmark = pytest.mark.quick

SETTING = Setting(Device(), num_prefill=2, num_decode=2)
LOAD = traces.at_rate(traces.synthetic(16), per_s=8.0)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_request_is_answered_or_refused(policy: Policy) -> None:
    served = run(policy, LOAD, SETTING)
    assert len(served) == len(LOAD)
    for each in served:
        assert (each.last_s is None) == (each.refused_s is not None)


@pytest.mark.parametrize("split", Split)
def test_nothing_is_left_when_all_is_over(split: Split) -> None:
    cluster = Cluster(2, 2, SETTING.device, 0.025, Admission(16), split)
    cluster.serve(LOAD, SETTING.slo)
    for machine in cluster.machines.values():
        machine.engine.pool.check_integrity()
        load = cluster.ledger.load(machine.ref)
        assert load is not None
        assert load.num_legs == 0
        assert load.num_expected == load.expected_tokens == 0
    cluster.ledger.index.check_integrity()


def test_workers_learn_what_their_steps_take() -> None:
    device = Device(noise=0.0)
    cluster = Cluster(2, 2, device, None)
    cluster.serve(LOAD, SETTING.slo)
    table = cluster.ledger.table
    for machine in cluster.machines.values():
        row = table.row(machine.ref)
        assert table.calibrated[row]
        assert table.step_s[row] == pytest.approx(device.step_s, rel=0.1)
        assert table.prompt_token_s[row] == pytest.approx(device.prompt_token_s, rel=0.1)
        assert table.context_token_s[row] == pytest.approx(device.context_token_s, rel=0.1)


def test_predictions_of_the_first_token_are_good() -> None:
    errors = []
    for each in run(ALL_ADMITTED, LOAD, SETTING):
        assert each.ttft_s is not None
        assert each.placement is not None
        errors.append(abs(each.ttft_s - each.placement.ttft_s) / each.ttft_s)
    assert sorted(errors)[len(errors) // 2] < 0.3


def test_a_run_is_repeatable() -> None:
    first, second = (run(OURS, LOAD, SETTING) for _ in range(2))
    assert [each.last_s for each in first] == [each.last_s for each in second]
    assert 0.0 < goodput(first) <= 1.0
