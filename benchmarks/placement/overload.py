"""Three times the load that the workers can serve, with a light tenant beside a heavy one."""

from __future__ import annotations

from rich.console import Console

from benchmarks.placement.policies import OURS, Setting, goodput, run
from sim import traces
from sim.machine import MachineModel
from sim.traces import Arrival

FULL_PER_S = 25.0
"""Request rate that four and four workers can serve within targets."""
LIGHT_PER_S = 1.5
KEPT, LIGHT_KEPT = 0.95, 0.9


def show(console: Console, seconds: float) -> None:
    setting = Setting(MachineModel())
    heavy = traces.at_rate(
        traces.synthetic(int(3 * FULL_PER_S * seconds), seed=1, tenant="heavy"), 3 * FULL_PER_S
    )
    span_s = heavy[-1].at_s
    light = traces.synthetic(max(8, int(span_s * LIGHT_PER_S)), seed=2, tenant="light")
    light = traces.at_rate(light, LIGHT_PER_S)
    alone = goodput(run(OURS, light, setting))
    served = run(OURS, _merged(heavy, light), setting)
    beside = goodput([each for each in served if each.arrival.tenant == "light"])
    admitted = [each for each in served if each.refused_s is None]
    kept = goodput(admitted)
    waited = sorted(
        each.refused_s - each.arrival.at_s for each in served if each.refused_s is not None
    )
    console.print(
        f"{_met(kept >= KEPT)}  3 x overload: of {len(served)} requests {len(admitted)} were "
        f"admitted, {kept:.1%} of them within targets; half of the refusals came within "
        f"{waited[len(waited) // 2] * 1e3 if waited else 0:.0f} ms"
    )
    console.print(
        f"{_met(beside >= LIGHT_KEPT * alone)}  a light tenant beside the heavy one: "
        f"{beside:.1%} within targets, alone {alone:.1%}"
    )


def _merged(one: list[Arrival], other: list[Arrival]) -> list[Arrival]:
    return sorted([*one, *other], key=lambda arrival: arrival.at_s)


def _met(bar: bool) -> str:
    return "met   " if bar else "missed"
