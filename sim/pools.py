"""Pools of workers for a simulation, from devices, a model's shape and targets."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.placing.placement_request import Slo
from sim.devices.device import Device
from sim.devices.model_shape import ModelShape
from sim.devices.roofline import machine_of
from sim.evaluate import worker_settings
from sim.machine import MachineModel
from sim.simulation import WorkerPool
from sim.traces import BLOCK_TOKENS
from wire.identity import Role


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Workers of one kind that begin in one role. Without a device they have a machine whose
    coefficients are known, by default a GPU with a model of 8 billion parameters."""

    role: Role
    num_workers: int
    device: Device | None = None
    machine: MachineModel = MachineModel()
    tensor_parallel: int = 1

    @property
    def price_per_hour(self) -> float:
        """The price of all workers; 0 where the device has none."""
        if self.device is None:
            return 0.0
        return self.num_workers * self.tensor_parallel * self.device.price_per_hour

    def pool(
        self,
        shape: ModelShape | None,
        targets: Slo,
        chunk_tokens: int | None,
        block_tokens: int = BLOCK_TOKENS,
    ) -> WorkerPool:
        """The workers; KV blocks have `block_tokens` tokens. Raises DeviceError."""
        machine = self.machine
        if self.device is not None:
            machine = machine_of(self.device, shape, self.tensor_parallel)
        return WorkerPool(
            role=self.role,
            num_workers=self.num_workers,
            machine=machine.with_block_size(block_tokens),
            settings=worker_settings(targets, chunk_tokens),
        )


def price_of(plans: Sequence[PoolPlan]) -> float | None:
    """The price of all workers for an hour; None where no device has one."""
    return sum(plan.price_per_hour for plan in plans) or None
