"""The cluster in virtual time: it repeats itself, loses nothing, and learns what steps take."""

from __future__ import annotations

import pytest

from router.placing.placement_request import Split
from sim.machine import MachineModel
from tests.sim.clusters import LOAD, a_cluster, check_nothing_is_left, slo_of

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("split", Split)
def test_every_request_ends_once_and_nothing_is_left(split: Split) -> None:
    cluster = a_cluster(split)
    results = cluster.run(LOAD, slo_of)
    assert [each.arrival for each in results] == LOAD
    for each in results:
        assert [each.last_s, each.refused_s, each.failure].count(None) == 2
        assert each.last_s is None or each.attempts == 1
    check_nothing_is_left(cluster)


def test_a_run_is_repeatable() -> None:
    first, second = (a_cluster().run(LOAD, slo_of) for _ in range(2))
    assert [(each.first_s, each.last_s) for each in first] == [
        (each.first_s, each.last_s) for each in second
    ]


def test_another_seed_takes_other_times() -> None:
    first, second = (a_cluster(seed=seed).run(LOAD, slo_of) for seed in (0, 10))
    assert [each.last_s for each in first] != [each.last_s for each in second]


def test_tokens_come_at_the_pace_of_the_steps() -> None:
    machine = MachineModel(noise=0.0, context_token_s=0.0)
    (result,) = a_cluster(machine=machine).run(LOAD[:1])
    assert result.split
    assert result.tpot_s == pytest.approx(machine.step_s + machine.sequence_s, rel=0.05)
    assert result.ttft_s == pytest.approx(machine.prefill_s(result.arrival.num_prompt), rel=0.05)


def test_workers_are_busy_as_long_as_they_step() -> None:
    cluster = a_cluster()
    cluster.run(LOAD, slo_of)
    for worker in cluster.workers.values():
        report = worker.loop.last_report
        assert report is not None
        assert report.totals.step_s == pytest.approx(worker.busy_s)
        assert 0 <= worker.busy_s < cluster.clock.now


def test_workers_learn_what_their_steps_take() -> None:
    machine = MachineModel(noise=0.0)
    cluster = a_cluster(machine=machine)
    cluster.run(LOAD, slo_of)
    table = cluster.ledger.table
    for ref in cluster.workers:
        row = table.row(ref)
        assert table.calibrated[row]
        assert table.step_s[row] == pytest.approx(machine.step_s, rel=0.1)
        assert table.prompt_token_s[row] == pytest.approx(machine.prompt_token_s, rel=0.1)
        assert table.context_token_s[row] == pytest.approx(machine.context_token_s, rel=0.1)


def test_blocks_travel_while_later_ones_are_computed() -> None:
    """A link that is a little faster than prefill adds the last chunk's blocks alone."""
    slow = MachineModel(noise=0.0, bytes_per_s=4e9)
    (result,) = a_cluster(Split.ALWAYS, slow).run([LOAD[0]])
    fast = MachineModel(noise=0.0, bytes_per_s=1e15)
    (instant,) = a_cluster(Split.ALWAYS, fast).run([LOAD[0]])
    assert result.last_s is not None
    assert instant.last_s is not None
    all_of_it_s = result.arrival.num_prompt * slow.layout.token_bytes / slow.bytes_per_s
    assert 0 < result.last_s - instant.last_s < 0.5 * all_of_it_s
