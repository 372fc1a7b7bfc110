"""The baseline that computes whole prompts before anything else."""

from __future__ import annotations

import msgspec

from router.placing.placement_request import Split
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.unmixed_policy import unmixed
from sim.worker import SETTINGS, MakePolicy, make_policy
from tests.sim.clusters import check_nothing_is_left
from wire.identity import Role

MACHINE = MachineModel(noise=0.0)
PROMPT = 8192


def tpot_s(policy: MakePolicy) -> float:
    """Of an answer beside which one long prompt is computed."""
    settings = msgspec.structs.replace(SETTINGS, chunk_tokens=512)
    pool = WorkerPool(Role.DECODE, 1, MACHINE, settings, policy)
    cluster = SimulatedCluster([pool], RouterSettings(max_queued=None, split=Split.NEVER))
    answer = Arrival(0.0, 100, 100, (1,))
    prompt = Arrival(0.3, PROMPT, 2, tuple(range(2, 18)))
    results = cluster.run([answer, prompt])
    check_nothing_is_left(cluster)
    assert results[0].tpot_s is not None
    return results[0].tpot_s


def test_an_answer_waits_for_the_whole_prompt() -> None:
    """In one step, however small the chunks would be; no token comes meanwhile."""
    stalled_s = MACHINE.prefill_s(PROMPT, PROMPT) / 99
    assert abs(tpot_s(unmixed) - (MACHINE.step_s + MACHINE.sequence_s + stalled_s)) < 0.1e-3


def test_production_lets_the_answer_go_on_beside_the_prompt() -> None:
    assert tpot_s(make_policy) < 0.97 * tpot_s(unmixed)
