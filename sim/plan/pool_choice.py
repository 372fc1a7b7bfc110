"""Pools that may be planned: kinds of workers, how many of each, and in which roles."""

from __future__ import annotations

import msgspec

from router.placing.placement_request import Slo
from sim.evaluate import worker_settings
from sim.machine import MachineModel
from sim.plan.plan_errors import BadNeeds
from sim.policies import ServingPolicy
from sim.simulation import WorkerPool
from wire.identity import Role

MIXED_CHUNK_TOKENS = 2048
"""Most prompt tokens of a step of workers that are not split; targets pace them below it."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be served, and how well. Raises BadNeeds."""

    requests_per_s: float
    ttft_s: float
    tpot_s: float
    attainment: float = 0.99
    """Share of the requests that have to keep each target."""
    max_gpus: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_s", "ttft_s", "tpot_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadNeeds(f"{name} is {getattr(self, name):g}: it must be above 0")
        if not 0 < self.attainment < 1:
            raise BadNeeds(f"attainment is {self.attainment:g}: it must be between 0 and 1")
        if self.max_gpus is not None and self.max_gpus < 1:
            raise BadNeeds(f"max_gpus is {self.max_gpus}: it must be at least 1")

    @property
    def targets(self) -> Slo:
        return Slo(self.ttft_s, self.tpot_s)


class WorkerKind(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of one device kind and tensor-parallel degree."""

    device: str
    tensor_parallel: int
    machine: MachineModel
    price_per_hour: float | None = None
    """For the whole worker; None where prices are not compared."""
    num_gpus_that_exist: int | None = None
    """Devices of its kind, for all workers of them together; None for any number."""

    @property
    def cost(self) -> float:
        """What is minimized: the price an hour, or else the number of GPUs."""
        return self.tensor_parallel if self.price_per_hour is None else self.price_per_hour

    @property
    def label(self) -> str:
        return f"{self.device} TP{self.tensor_parallel}"


class WorkerGroup(msgspec.Struct, frozen=True):
    """So many workers of one kind."""

    kind: WorkerKind
    num_workers: int

    @property
    def num_gpus(self) -> int:
        return self.num_workers * self.kind.tensor_parallel

    @property
    def cost(self) -> float:
        return self.num_workers * self.kind.cost


class PoolFamily(msgspec.Struct, frozen=True):
    """Pools that differ in numbers of workers only; `prefill` is None where nothing is split."""

    decode: WorkerKind
    prefill: WorkerKind | None = None
    chunk_tokens: int = MIXED_CHUNK_TOKENS
    """Most prompt tokens of a prefill worker's step."""

    @property
    def split(self) -> bool:
        return self.prefill is not None

    @property
    def kinds(self) -> tuple[WorkerKind, ...]:
        return (self.decode,) if self.prefill is None else (self.prefill, self.decode)


class PoolChoice(msgspec.Struct, frozen=True):
    """A family with its numbers of workers."""

    family: PoolFamily
    num_prefill: int
    num_decode: int

    @property
    def groups(self) -> tuple[WorkerGroup, ...]:
        """The prefill workers first, if there are any."""
        decode = WorkerGroup(self.family.decode, self.num_decode)
        if self.family.prefill is None:
            return (decode,)
        return WorkerGroup(self.family.prefill, self.num_prefill), decode

    @property
    def label(self) -> str:
        """In words: "4 x h200 TP2 prefill, 6 x h200 TP2 decode"."""
        roles = ("prefill", "decode") if self.family.split else ("unsplit",)
        parts = zip(roles, self.groups, strict=True)
        return ", ".join(
            f"{group.num_workers} × {group.kind.label} {role}" for role, group in parts
        )

    @property
    def num_gpus(self) -> int:
        return sum(group.num_gpus for group in self.groups)

    @property
    def gpus(self) -> dict[str, int]:
        """GPUs by device."""
        found: dict[str, int] = {}
        for group in self.groups:
            device = group.kind.device
            found[device] = found.get(device, 0) + group.num_gpus
        return found

    @property
    def cost(self) -> float:
        return sum(group.cost for group in self.groups)

    @property
    def price_per_hour(self) -> float | None:
        priced = all(kind.price_per_hour is not None for kind in self.family.kinds)
        return self.cost if priced else None

    @property
    def policy(self) -> ServingPolicy:
        """The ratio is part of the choice, so that roles are fixed."""
        return ServingPolicy.ALWAYS if self.family.split else ServingPolicy.NEVER

    def pools(self, targets: Slo) -> list[WorkerPool]:
        """What the simulation serves with."""
        settings = worker_settings(targets, self.family.chunk_tokens)
        roles = (Role.PREFILL, Role.DECODE) if self.family.split else (Role.DECODE,)
        return [
            WorkerPool(role, group.num_workers, group.kind.machine, settings)
            for role, group in zip(roles, self.groups, strict=True)
        ]

    def contains(self, other: PoolChoice) -> bool:
        """Has at least as many workers of each kind and role as the other."""
        return (
            self.family == other.family
            and self.num_prefill >= other.num_prefill
            and self.num_decode >= other.num_decode
        )

    def exists(self, max_gpus: int | None) -> bool:
        """Whether there are enough devices, of each kind and in all."""
        if max_gpus is not None and self.num_gpus > max_gpus:
            return False
        most = {kind.device: kind.num_gpus_that_exist for kind in self.family.kinds}
        used = self.gpus
        return all(limit is None or used[device] <= limit for device, limit in most.items())
