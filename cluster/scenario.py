"""What `tandem simulate` is asked for, read and checked: requests, pools of workers, policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster.errors import CannotSimulate
from cluster.seconds import seconds
from router.placing.placement_request import Slo
from sim.devices.device import Device, read_device
from sim.devices.errors import DeviceError
from sim.devices.model_shape import ModelShape, shape_of
from sim.evaluate import evaluate
from sim.machine import MachineModel
from sim.observed import BadStatus, Observed, read_status
from sim.policies import ServingPolicy
from sim.pools import PoolPlan, price_of
from sim.summary import Summary
from sim.traces import Trace, open_trace
from sim.traces.bad_trace import TraceError, did_you_mean
from wire.identity import Role

NUM_WORKERS = 4
"""Workers of each role where nothing says how many."""
Progress = Callable[[float], None]
"""Called with the share of a policy's run that is done, up to 1."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command, as they were typed; `cluster.simulate` explains them."""

    trace: str
    rate: float | None
    policies: tuple[str, ...]
    num_workers: dict[Role, int | None]
    status: Path | None
    devices: dict[Role, str | None]
    tensor_parallel: dict[Role, int]
    model: Path | None
    ttft: str | None
    tpot: str | None
    chunk_tokens: int
    block_tokens: int | None
    count: int | None
    skip: int
    seed: int


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation that can be run, once for each policy."""

    trace: Trace
    policies: tuple[ServingPolicy, ...]
    pools: tuple[PoolPlan, ...]
    shape: ModelShape | None
    targets: Slo
    chunk_tokens: int
    block_tokens: int
    seed: int

    @staticmethod
    def of(asked: Asked) -> Scenario:
        """Raises CannotSimulate, which says what is wrong with which option."""
        policies = tuple(map(_policy, asked.policies))
        targets = Slo(_target("--ttft", asked.ttft), _target("--tpot", asked.tpot))
        try:
            shape = None if asked.model is None else shape_of(asked.model)
            pools = _pools(asked)
            trace = open_trace(asked.trace, asked.rate, asked.count, asked.skip, asked.seed)
        except (TraceError, DeviceError, BadStatus) as error:
            raise CannotSimulate(str(error)) from error
        return Scenario(
            trace=trace,
            policies=policies,
            pools=pools,
            shape=shape,
            targets=targets,
            chunk_tokens=asked.chunk_tokens,
            block_tokens=asked.block_tokens or trace.block_tokens,
            seed=asked.seed,
        )

    def run(self, policy: ServingPolicy, progress: Progress | None = None) -> Summary:
        """Raises CannotSimulate where a device and the model do not go together."""
        try:
            pools = [
                plan.pool(self.shape, self.targets, self.chunk_tokens, self.block_tokens)
                for plan in self.pools
            ]
        except DeviceError as error:
            wanted = "; --model names the directory of one" if self.shape is None else ""
            raise CannotSimulate(f"{error}{wanted}") from error
        return evaluate(
            pools,
            policy,
            self.trace.arrivals,
            self.targets,
            self.seed,
            price_per_hour=price_of(self.pools),
            progress=progress,
        )


def _pools(asked: Asked) -> tuple[PoolPlan, ...]:
    running = {} if asked.status is None else read_status(asked.status)
    pools = tuple(pool for role in Role if (pool := _pool(asked, role, running)).num_workers > 0)
    if not pools:
        raise CannotSimulate("no workers: --prefill or --decode must be above 0")
    if asked.status is not None and any(asked.devices.values()):
        raise CannotSimulate("--from-status and --device: step times come from one of them")
    if asked.model is not None and not any(asked.devices.values()):
        raise CannotSimulate("--model needs --device: a shape alone has no step times")
    return pools


def _pool(asked: Asked, role: Role, running: dict[Role, Observed]) -> PoolPlan:
    """As asked; where nothing is said, as many workers as run, or else NUM_WORKERS."""
    number, machine = asked.num_workers[role], MachineModel()
    if running:
        seen = running.get(role)
        machine = (seen or next(iter(running.values()))).machine
        if number is None:
            number = 0 if seen is None else seen.num_workers
    return PoolPlan(
        role=role,
        num_workers=NUM_WORKERS if number is None else number,
        device=_device(asked.devices[role]),
        machine=machine,
        tensor_parallel=asked.tensor_parallel[role],
    )


def _device(path: str | None) -> Device | None:
    return None if path is None else read_device(path)


def _policy(name: str) -> ServingPolicy:
    names = [policy.value for policy in ServingPolicy]
    if name not in names:
        known = ", ".join(names)
        meant = did_you_mean(name, names)
        raise CannotSimulate(f"--policy: unknown policy {name}{meant} (known: {known})")
    return ServingPolicy(name)


def _target(option: str, text: str | None) -> float | None:
    return None if text is None else seconds(option, text)
