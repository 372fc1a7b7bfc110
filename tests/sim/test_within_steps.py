"""A handoff in the simulation does not wait for the steps of others, as in production."""

from __future__ import annotations

from sim.machine import MachineModel
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.worker import SETTINGS
from wire.identity import Role

MACHINE = MachineModel(noise=0.0)


def test_a_handoff_ends_while_the_next_prompt_is_computed() -> None:
    pools = [WorkerPool(role, 1, MACHINE, SETTINGS) for role in (Role.PREFILL, Role.DECODE)]
    # The second prompt keeps the prefill worker busy for long steps after the first one's end.
    arrivals = [
        Arrival(0.0, num_prompt=512, num_new=6, blocks=(1,)),
        Arrival(0.001, num_prompt=4096, num_new=6, blocks=tuple(range(10, 18))),
    ]

    first, second = SimulatedCluster(pools).run(arrivals)

    assert first.split
    assert second.split
    decode_steps_s = 5 * (MACHINE.step_s + MACHINE.sequence_s + MACHINE.context_token_s * 512)
    assert first.tpot_s is not None
    # Far less than another step of the prompt, which takes 22 ms.
    assert 5 * first.tpot_s < decode_steps_s + 0.010
