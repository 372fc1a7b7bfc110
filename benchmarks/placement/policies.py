"""What is compared: this router, and what others do."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from router.placing.placement_request import Slo, Split
from router.queueing.admission import Admission
from sim.machine import Device
from sim.request import Served
from sim.simulation import Cluster
from sim.traces import Arrival


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


def run(policy: Policy, arrivals: list[Arrival], setting: Setting) -> list[Served]:
    """Every policy begins with the same few requests, which teach the router what steps take."""
    cluster = Cluster(
        setting.num_prefill,
        setting.num_decode,
        setting.device,
        0.85 * setting.tpot_s,
        Admission(setting.max_queued) if policy.refuses else None,
        policy.split,
        in_turn=policy.in_turn,
    )
    begin_s = (NUM_WARM + 10) * WARM_EVERY_S
    later = [each.later(begin_s) for each in arrivals]
    return cluster.serve([*_warm(), *later], setting.slo)[NUM_WARM:]


def goodput(served: list[Served]) -> float:
    """Share of the requests that were complete, and within both targets."""
    return sum(each.good for each in served) / len(served)


def _warm() -> list[Arrival]:
    arrivals = []
    for number in range(NUM_WARM):
        num_prompt = 600 + 150 * number
        first = (1 << 30) + 64 * number
        blocks = tuple(range(first, first + -(-num_prompt // 512)))
        arrivals.append(Arrival(number * WARM_EVERY_S, num_prompt, 40 + number, blocks))
    return arrivals
