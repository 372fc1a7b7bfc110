"""The cells of the grid, and what becomes of each."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.split_grid.saturation import Saturation
from benchmarks.split_grid.serve import Arm, Served, always, auto, never, serve
from benchmarks.split_grid.workloads import Source, warmed_up
from sim.machine import MachineModel
from sim.plan.traffic_profile import traffic_of

SAMPLE = 2000
"""Requests from which a workload is known."""
FEWEST, MOST = 150, 2000
"""Bounds of a cell's requests."""
ALL_SERVED = 0.999
"""No other fixed ratio is tried where one serves this share."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One target, workload and rate."""

    source: Source
    tpot_s: float
    multiple: float
    """Of the rate at which the best assignment is predicted to be full."""
    seconds: float
    """Virtual time in which requests come."""
    ratios: tuple[int, ...]
    """Prefill workers of `auto` at the start."""
    machine: MachineModel


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The goodput of all arms in one cell."""

    workload: str
    tpot_s: float
    multiple: float
    seed: int
    window: int
    requests_per_s: float
    num_requests: int
    never: Served
    always: dict[str, Served]
    auto: dict[str, Served]

    @property
    def best_fixed(self) -> str:
        return max(self.always, key=lambda name: self.always[name].goodput)

    @property
    def reference(self) -> float:
        """The better of never splitting and always splitting at the best fixed ratio."""
        return max(self.never.goodput, self.always[self.best_fixed].goodput)

    @property
    def ratios(self) -> list[float]:
        """Goodput of `auto` over the reference, for each ratio at the start."""
        return [each.goodput / max(1e-9, self.reference) for each in self.auto.values()]

    @property
    def over_never(self) -> float:
        mean = statistics.fmean(each.goodput for each in self.auto.values())
        return mean / max(1e-9, self.never.goodput)

    @property
    def cpu_s(self) -> float:
        return sum(each.cpu_s for each in (self.never, *self.always.values(), *self.auto.values()))


def measure(cell: Cell) -> Outcome:
    """Serve the same requests by every arm."""
    source, machine = cell.source, cell.machine
    samples = source.requests(SAMPLE, 1.0)
    found = Saturation(traffic_of(samples), cell.tpot_s, machine)
    per_s = cell.multiple * found.per_s
    count = round(min(MOST, max(FEWEST, per_s * cell.seconds)))
    warmed = warmed_up(source.requests(count, per_s), samples)

    def served(arm: Arm) -> Served:
        return serve(arm, warmed, cell.tpot_s, machine)

    fixed: dict[str, Served] = {}
    for number in found.hopeful():
        if not any(each.goodput >= ALL_SERVED for each in fixed.values()):
            fixed[always(number).name] = served(always(number))
    return Outcome(
        workload=source.workload,
        tpot_s=cell.tpot_s,
        multiple=cell.multiple,
        seed=source.seed,
        window=source.window,
        requests_per_s=per_s,
        num_requests=count,
        never=served(never()),
        always=fixed,
        auto={auto(number).name: served(auto(number)) for number in cell.ratios},
    )


def cells(
    workloads: list[str],
    targets_s: list[float],
    multiples: list[float],
    ratios: list[int],
    *,
    traces_dir: Path | None,
    seed: int,
    windows: list[int],
    seconds: float,
    machine: MachineModel,
) -> Iterator[Cell]:
    """All combinations whose trace is there."""
    for workload in workloads:
        for window in windows:
            source = Source(workload, traces_dir, seed, window)
            for tpot_s in targets_s if source.available() else ():
                for multiple in multiples:
                    yield Cell(source, tpot_s, multiple, seconds, tuple(ratios), machine)
