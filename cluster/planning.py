"""What `tandem plan` is asked for, read and checked: model, devices, requests, targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cluster.errors import CannotPlan
from cluster.seconds import seconds
from sim.devices.device import read_device
from sim.devices.errors import DeviceError
from sim.devices.model_shape import shape_of
from sim.plan.goodput_plot import check_plot, goodput_curves, save_plot
from sim.plan.plan_errors import PlanError
from sim.plan.planner import PlanFound, plan
from sim.plan.pool_choice import Needs, WorkerKind
from sim.plan.traffic_profile import TrafficProfile, traffic_of
from sim.plan.trials import Trial, Trials, num_requests, window
from sim.plan.worker_kinds import DeviceStock, check_targets, worker_kinds
from sim.traces import Arrival, open_trace
from sim.traces.bad_trace import TraceError

_COUNT = re.compile(r"(?P<name>.+):(?P<count>\d+)")
PROFILED = 4000
"""Requests of a trace that are looked at to find how many to simulate."""


class AskedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command, as they were typed; `cluster.plan` explains them."""

    model: Path
    devices: tuple[str, ...]
    trace: str
    rate: float
    ttft: str
    tpot: str
    attainment: float
    max_gpus: int | None
    count: int | None
    num_shown: int
    seed: int


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that can be searched for."""

    kinds: tuple[WorkerKind, ...]
    reasons: tuple[str, ...]
    """Why other kinds of workers are left out, a sentence each."""
    arrivals: list[Arrival]
    traffic: TrafficProfile
    needs: Needs
    num_shown: int
    seed: int

    @staticmethod
    def of(asked: AskedPlan) -> Question:
        """Raises CannotPlan, which says what is wrong with which option."""
        try:
            return _question(asked)
        except (PlanError, TraceError, DeviceError) as error:
            raise CannotPlan(str(error)) from error

    def answer(self, on_trial: Callable[[Trial], None]) -> PlanFound:
        """Search; `on_trial` is told of each trial. Raises CannotPlan where the devices are too
        few."""
        trials = Trials(self.arrivals, self.needs, self.seed, on_trial)
        try:
            return plan(self.kinds, self.traffic, self.needs, trials, self.num_shown)
        except PlanError as error:
            raise CannotPlan(str(error)) from error

    def draw(self, found: PlanFound, file: Path) -> None:
        """Simulate the candidates at other rates, and plot their goodput. Raises CannotPlan."""
        trials = Trials(self.arrivals, self.needs, self.seed)
        try:
            save_plot(goodput_curves(found, trials), self.needs, file)
        except OSError as error:
            raise CannotPlan(f"--plot {file}: {error.strerror}") from error


def check_plot_file(file: Path) -> None:
    """Before the search, which takes long. Raises CannotPlan."""
    try:
        check_plot(file)
    except PlanError as error:
        raise CannotPlan(str(error)) from error


def _question(asked: AskedPlan) -> Question:
    needs = Needs(
        requests_per_s=asked.rate,
        ttft_s=seconds("--ttft", asked.ttft),
        tpot_s=seconds("--tpot", asked.tpot),
        attainment=asked.attainment,
        max_gpus=asked.max_gpus,
    )
    stock = _stock(asked.devices)
    trace = open_trace(asked.trace, asked.rate, PROFILED, seed=asked.seed)
    count = asked.count or num_requests(traffic_of(trace.arrivals), needs)
    arrivals = window(trace.arrivals, count)
    traffic = traffic_of(arrivals)
    found = worker_kinds(stock, shape_of(asked.model), trace.block_tokens)
    check_targets(found.able, traffic, needs)
    return Question(
        kinds=found.able,
        reasons=found.reasons,
        arrivals=arrivals,
        traffic=traffic,
        needs=needs,
        num_shown=asked.num_shown,
        seed=asked.seed,
    )


def _stock(devices: Sequence[str]) -> list[DeviceStock]:
    """Devices as NAME, FILE, NAME:COUNT or FILE:COUNT."""
    found = []
    for text in devices:
        counted = None if Path(text).exists() else _COUNT.fullmatch(text)
        path, count = (text, None) if counted is None else (counted["name"], int(counted["count"]))
        if count == 0:
            raise CannotPlan(f"--device {text}: the number of devices must be above 0")
        found.append(DeviceStock(read_device(path), count))
    names = [each.device.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise CannotPlan(f"--device {name} is given twice: give it once, with the sum")
    return found
