"""The policies that are compared: this router's, and others."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from router.placing.placement_request import Slo, Split
from sim.machine import MachineModel
from sim.policies import in_turn
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.warm_up import NUM_WARM, after_warm_up
from sim.worker import SETTINGS
from wire.identity import Role


class Policy(msgspec.Struct, frozen=True):
    """How requests are placed, and whether those that would be late are refused."""

    name: str
    split: Split = Split.AUTO
    refuses: bool = True
    in_turn: bool = False


OURS = Policy("ours")
NEVER = Policy("never split", Split.NEVER)
ALWAYS = Policy("always split", Split.ALWAYS)
ALL_ADMITTED = Policy("ours, nobody refused", refuses=False)
NEVER_ADMITTED = Policy("never split, nobody refused", Split.NEVER, refuses=False)
ROUND_ROBIN = Policy("round robin", refuses=False, in_turn=True)
POLICIES = (OURS, NEVER, ALWAYS, ALL_ADMITTED, NEVER_ADMITTED, ROUND_ROBIN)
"""The second and third are this router's admission and placement too, with other ways forbidden."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A cluster, and what its clients expect of it."""

    machine: MachineModel
    num_prefill: int = 4
    num_decode: int = 4
    least_ttft_s: float = 1.0
    prefills: float = 3.0
    """A prompt may take so many times what it takes alone, and the least time above."""
    tpot_s: float = 0.03
    max_queued: int = 256

    def slo(self, arrival: Arrival) -> Slo:
        alone_s = self.machine.prefill_s(arrival.num_prompt)
        return Slo(self.least_ttft_s + self.prefills * alone_s, self.tpot_s)


def run(policy: Policy, arrivals: list[Arrival], setting: Setting) -> list[RequestResult]:
    """Every policy begins with the same few requests, which teach the router what steps take."""
    return cluster_of(policy, setting).run(after_warm_up(arrivals), setting.slo)[NUM_WARM:]


def cluster_of(policy: Policy, setting: Setting) -> SimulatedCluster:
    router = RouterSettings(
        max_queued=setting.max_queued if policy.refuses else None,
        split=policy.split,
        choose=in_turn if policy.in_turn else None,
    )
    return SimulatedCluster(pools_of(setting), router)


def pools_of(setting: Setting, chunk_tokens: int | None = None) -> list[WorkerPool]:
    """The workers of each role. Steps aim at a little less than the target, so that tokens keep it,
    and have at most `chunk_tokens` prompt tokens."""
    settings = msgspec.structs.replace(
        SETTINGS, tpot_target_s=0.85 * setting.tpot_s, chunk_tokens=chunk_tokens
    )
    counts = ((Role.PREFILL, setting.num_prefill), (Role.DECODE, setting.num_decode))
    return [WorkerPool(role, number, setting.machine, settings) for role, number in counts]


def goodput(served: list[RequestResult]) -> float:
    """Share of the requests that were complete, and within both targets."""
    return sum(each.good for each in served) / len(served)
