"""Roles that follow the load, in virtual time: more requests in time, and none lost in a change."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest

from engine.schedule.policy import ScheduledTokens
from engine.schedule.role_policy import RolePolicy
from engine.sequence import Sequence
from router.config import Roles
from router.placing.placement_request import Slo
from sim import traces
from sim.machine import MachineModel
from sim.network import MESSAGE_S
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.worker import SETTINGS
from tests.sim.clusters import check_nothing_is_left
from wire.identity import Role
from worker.config import WorkerConfig

MACHINE = MachineModel()
LONGEST_STEP_S = 2 * MACHINE.prefill_s(2048, 2048)
TPOT_S = 9e-3
"""One and a half times the step that does nothing but read the weights."""


def a_cluster(roles: Roles) -> SimulatedCluster:
    """One prefill worker, three that decode."""
    settings = WorkerConfig(
        model=SETTINGS.model,
        runner=SETTINGS.runner,
        tpot_target_s=0.85 * TPOT_S,
        chunk_tokens=2048,
    )
    pools = [
        WorkerPool(Role.PREFILL, 1, MACHINE, settings),
        WorkerPool(Role.DECODE, 3, MACHINE, settings),
    ]
    return SimulatedCluster(pools, RouterSettings(roles=roles))


def requests(count: int, num_prompt: int, num_new: int, per_s: float) -> list[Arrival]:
    return [
        Arrival(number / per_s, num_prompt, num_new, tuple(range(1 + 64 * number, 5 + 64 * number)))
        for number in range(count)
    ]


def serve(roles: Roles, load: list[Arrival]) -> tuple[SimulatedCluster, list[RequestResult]]:
    cluster = a_cluster(roles)
    results = cluster.run(load, lambda arrival: Slo(1.5, TPOT_S))
    check_nothing_is_left(cluster)
    return cluster, results


def goodput(results: list[RequestResult]) -> float:
    return sum(each.good for each in results) / len(results)


def test_under_a_strict_target_more_requests_are_in_time_than_with_fixed_roles() -> None:
    load = requests(240, 2048, 100, per_s=22)
    cluster, follow = serve(Roles.FOLLOW, load)
    _, fixed = serve(Roles.FIXED, load)
    assert goodput(follow) > 1.3 * goodput(fixed)
    assert cluster.ledger.table.prefills.sum() > 1
    assert sum(each.split for each in follow) > 0.8 * len(load)


@pytest.mark.parametrize("num_new", [20, 200])
def test_a_change_of_roles_loses_no_request(num_new: int) -> None:
    load = requests(100, 1500, num_new, per_s=12)
    load += [each.later(load[-1].at_s) for each in requests(100, 200, 220 - num_new, per_s=30)]
    cluster, results = serve(Roles.FOLLOW, load)
    assert cluster.role_changes
    assert [each.failure for each in results] == [None] * len(results)
    assert all(each.attempts == 1 for each in results if each.refused_s is None)


def test_messages_that_come_during_a_step_wait_for_its_end() -> None:
    """A worker's next step begins when the last one has ended, however early a message wakes it;
    its messages leave in order, which the router checks of those about its cache."""
    load = traces.at_rate(traces.synthetic(60, seed=3), per_s=60.0)
    serve(Roles.FIXED, load)


def test_a_change_takes_effect_with_the_step_after_the_running_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = a_cluster(Roles.FOLLOW)
    planned: list[tuple[float, RolePolicy, Role]] = []
    plan = RolePolicy.plan

    def watched(policy: RolePolicy, running: Seq[Sequence]) -> list[ScheduledTokens]:
        planned.append((cluster.clock.now, policy, policy.role))
        return plan(policy, running)

    monkeypatch.setattr(RolePolicy, "plan", watched)
    load = requests(80, 2048, 100, per_s=22)
    load += [each.later(load[-1].at_s) for each in requests(150, 200, 200, per_s=40)]
    cluster.run(load, lambda arrival: Slo(1.5, TPOT_S))
    assert len(cluster.role_changes) >= 2
    for sent_s, change in cluster.role_changes:
        own = cluster.workers[change.ref].engine.policy
        later = [(at, role) for at, policy, role in planned if policy is own and at > sent_s]
        last_s = max((at for at, role in later[:2] if role is not change.role), default=sent_s)
        assert last_s - sent_s < MESSAGE_S + LONGEST_STEP_S, "steps before the message came"
        in_new_role = [at for at, role in later if role is change.role]
        assert in_new_role
        assert in_new_role[0] - sent_s < 2.0 + LONGEST_STEP_S
