"""One run of a simulated cluster through all phases, and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.changing_mix.traffic import PHASES
from benchmarks.placement.policies import Setting, goodput, pools_of
from router.config import Roles
from router.placing.placement_request import Split
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster
from sim.traces import Arrival
from sim.warm_up import NUM_WARM, WARM_S, after_warm_up

CHUNK_TOKENS = 2048
KINDS = {
    "follow": (Roles.FOLLOW, Split.AUTO),
    "never": (Roles.FIXED, Split.NEVER),
    "always": (Roles.FIXED, Split.ALWAYS),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of good requests, and times in seconds since the traffic began."""

    by_phase: list[float]
    of_requests: float
    num_lost: int
    """Requests that failed, or began again on another worker."""
    changes: list[float]
    """Times at which a worker was told to take another role."""

    @property
    def goodput(self) -> float:
        return sum(self.by_phase) / len(self.by_phase)


def mix(rates: Sequence[float], phase_s: float, seed: int) -> list[Arrival]:
    """The phases one after the other, each for so long and at its rate."""
    arrivals: list[Arrival] = []
    for number, (phase, per_s) in enumerate(zip(PHASES, rates, strict=True)):
        own = phase.arrivals(per_s, phase_s, seed)
        arrivals += [each.later(number * phase_s) for each in own]
    return arrivals


def serve(
    kind: str, num_workers: int, tpot_s: float, load: Sequence[Arrival], phase_s: float
) -> Outcome:
    """`kind` is one of KINDS, a colon, and the number of prefill workers at the start."""
    name, _, number = kind.partition(":")
    roles, split = KINDS[name]
    num_prefill = int(number)
    setting = Setting(MachineModel(), num_prefill, num_workers - num_prefill, tpot_s=tpot_s)
    router = RouterSettings(max_queued=setting.max_queued, split=split, roles=roles)
    cluster = SimulatedCluster(pools_of(setting, CHUNK_TOKENS), router)
    served = cluster.run(after_warm_up(load), setting.slo)
    changes = [at_s - WARM_S for at_s, _ in cluster.role_changes]
    return _outcome(served[NUM_WARM:], changes, phase_s)


def _outcome(served: list[RequestResult], changes: list[float], phase_s: float) -> Outcome:
    by_phase: list[list[RequestResult]] = [[] for _ in PHASES]
    for each in served:
        by_phase[int((each.arrival.at_s - WARM_S) / phase_s)].append(each)
    return Outcome(
        by_phase=[goodput(part) for part in by_phase],
        of_requests=goodput(served),
        num_lost=sum(each.failure is not None or each.attempts > 1 for each in served),
        changes=changes,
    )
