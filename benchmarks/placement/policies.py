"""What is compared: this router, and what others do."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.placement.machine import Device
from benchmarks.placement.simulation import Choose, Cluster, Served, ours, round_robin
from benchmarks.placement.traces import Arrival
from router.admission import Admission
from router.placement import Slo, Split

OURS, ALL_ADMITTED, NEVER, ALWAYS, ROUND_ROBIN = (
    "ours",
    "ours, nobody refused",
    "never split",
    "always split",
    "round robin",
)
POLICIES = (OURS, ALL_ADMITTED, NEVER, ALWAYS, ROUND_ROBIN)
SPLITS = {OURS: Split.AUTO, ALL_ADMITTED: Split.AUTO, NEVER: Split.NEVER, ALWAYS: Split.ALWAYS}
NUM_WARM = 20
WARM_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Setting:
    """A cluster, and what its clients expect of it."""

    device: Device
    num_prefill: int = 4
    num_decode: int = 4
    least_ttft_s: float = 1.0
    prefills: float = 3.0
    """A prompt may take so many times what it takes alone, and the least time above."""
    tpot_s: float = 0.03
    max_queued: int = 256

    def slo(self, arrival: Arrival) -> Slo:
        alone_s = self.device.prefill_s(arrival.num_prompt)
        return Slo(self.least_ttft_s + self.prefills * alone_s, self.tpot_s)


def run(policy: str, arrivals: list[Arrival], setting: Setting) -> list[Served]:
    """Every policy begins with the same few requests, which teach the router what steps take."""
    admission = Admission(setting.max_queued) if policy == OURS else None
    cluster = Cluster(
        setting.num_prefill,
        setting.num_decode,
        setting.device,
        0.85 * setting.tpot_s,
        admission,
    )
    begin_s = (NUM_WARM + 10) * WARM_EVERY_S
    later = [each.later(begin_s) for each in arrivals]
    served = cluster.serve([*_warm(), *later], setting.slo, _choose(policy, cluster))
    return served[NUM_WARM:]


def goodput(served: list[Served]) -> float:
    """Share of the requests that were complete, and within both targets."""
    return sum(each.good for each in served) / len(served)


def _choose(policy: str, cluster: Cluster) -> Choose:
    if policy == ROUND_ROBIN:
        return round_robin(cluster)
    return ours(cluster, SPLITS[policy])


def _warm() -> list[Arrival]:
    arrivals = []
    for number in range(NUM_WARM):
        num_prompt = 600 + 150 * number
        first = (1 << 30) + 64 * number
        blocks = tuple(range(first, first + -(-num_prompt // 512)))
        arrivals.append(Arrival(number * WARM_EVERY_S, num_prompt, 40 + number, blocks))
    return arrivals
