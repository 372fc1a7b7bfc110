"""The launcher for child processes on this machine: for tests, and where Ray is not installed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from cluster.child import Child
from cluster.config import ClusterConfig, with_host
from cluster.errors import StartFailed
from cluster.gpu_allocator import GpuAllocator
from cluster.idle_gpus import idle_gpu_warnings
from cluster.launcher import ROUTER_START_S, WorkerStatus
from cluster.pools import PoolConfig
from cluster.router_client import RouterClient
from engine.device.cores import count_cores
from engine.device.visible_gpus import visible_gpus
from router.config import RouterAddresses, RouterConfig
from router.roles.model_status import StatusBody
from runtime.address import LOOPBACK, join_address, reachable
from runtime.listen import PortTaken, reserve_port
from worker.config import WorkerConfig

STATUS_TIMEOUT_S = 1.0


class ChildRouter:
    """Implements `cluster.launcher.RunningRouter`; `reserved` holds the port of `fleet` until it
    listens."""

    def __init__(self, child: Child, fleet: str, reserved: socket.socket) -> None:
        self.name = child.name
        self.fleet = fleet
        self._child = child
        self._reserved = reserved

    @cached_property
    def addresses(self) -> RouterAddresses:
        try:
            with self._reserved:
                ready = self._child.wait_ready(ROUTER_START_S)
        except StartFailed as error:
            raise StartFailed(f"{self.name}: {error}") from error
        if ready is None:
            self._child.stop(0)
            raise StartFailed(f"{self.name} did not start within {ROUTER_START_S:.0f} s")
        return msgspec.json.decode(ready, type=RouterAddresses)

    def error(self) -> str | None:
        return None if self._child.process.poll() is None else self._child.exit_reason()

    def model_status(self) -> StatusBody:
        at = self.addresses
        return RouterClient(at.admin or at.http, timeout_s=STATUS_TIMEOUT_S).status()

    def drain(self, timeout_s: float) -> None:
        self._child.process.terminate()

    def wait_stopped(self, timeout_s: float) -> None:
        self._child.stop(timeout_s)
        self._reserved.close()


class ChildWorker:
    """Implements `cluster.launcher.RunningWorker`."""

    def __init__(self, child: Child, on_stopped: Callable[[], None]) -> None:
        self.name = child.name
        self._child = child
        self._on_stopped = on_stopped
        self._address: str | None = None

    def status(self) -> WorkerStatus:
        process_id = self._child.process.pid
        try:
            if self._address is None and (ready := self._child.wait_ready(0.05)) is not None:
                self._address = msgspec.json.decode(ready, type=dict[str, Any])["address"]
        except StartFailed as error:
            return WorkerStatus(process_id=process_id, error=str(error))
        if self._child.process.poll() is not None:
            return WorkerStatus(process_id=process_id, error=self._child.exit_reason())
        return WorkerStatus(address=self._address, process_id=process_id)

    def drain(self, timeout_s: float) -> None:
        self._child.process.terminate()

    def has_stopped(self) -> bool:
        return self._child.process.poll() is not None

    def wait_stopped(self, timeout_s: float) -> None:
        self._child.stop(timeout_s)
        self._on_stopped()


class ProcessLauncher:
    """Implements `cluster.launcher.Launcher` with child processes."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._gpus = GpuAllocator(visible_gpus())

    def start_router(self, name: str, config: RouterConfig) -> ChildRouter:
        """Start a router, and return while it loads, so that workers load at the same time."""
        config = with_host(config, LOOPBACK)
        try:
            reserved = reserve_port(config.host, config.fleet_port, "router.fleet_port")
        except PortTaken as error:
            raise StartFailed(f"{name}: {error}") from error
        port = reserved.getsockname()[1]
        settings = msgspec.json.encode(msgspec.structs.replace(config, fleet_port=port)).decode()
        child = self._spawn(name, ["router", "--settings", settings])
        fleet = join_address(reachable(config.host, LOOPBACK), port)
        return ChildRouter(child, fleet, reserved)

    def start_worker(self, pool: PoolConfig, name: str, config: WorkerConfig) -> ChildWorker:
        """Start a worker. Raises StartFailed where the machine lacks the GPUs that the pool
        requests."""
        config = share_cores(with_host(config, LOOPBACK), count_cores())
        environment = self._gpus_of(pool, name, config)
        settings = msgspec.json.encode(config).decode()
        module = f"{pool.role.value}_worker"
        arguments = [module, "--model", config.model, "--settings", settings]
        child = self._spawn(name, arguments, environment)
        return ChildWorker(child, lambda: self._gpus.release(name))

    def _gpus_of(self, pool: PoolConfig, name: str, config: WorkerConfig) -> dict[str, str]:
        """The environment in which a worker sees the GPUs that it was given: "auto" without any
        computes on the CPU, as on Ray, and does not share the first GPU with all others."""
        if pool.num_gpus > 0:
            gpus = self._gpus.allocate(name, pool.num_gpus, f"{pool.keys}.num_gpus")
            return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        return {"CUDA_VISIBLE_DEVICES": ""} if config.device == "auto" else {}

    def adopt(self, config: ClusterConfig) -> None:
        """No-op: this launcher keeps no configuration."""

    def warnings(self, config: ClusterConfig) -> list[str]:
        """Warnings about GPUs of this machine that no worker was given."""
        return idle_gpu_warnings(config, len(visible_gpus()), "this machine has")

    def pids(self, kind: str) -> tuple[int, ...]:
        """Process ids of the children whose names begin with `kind`."""
        return tuple(it.process.pid for it in self._children if it.name.startswith(kind))

    def close(self) -> None:
        """Kill all children that were not stopped before."""
        for child in self._children:
            child.stop(0)

    def _spawn(
        self, name: str, arguments: list[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        child = Child(name, arguments, environment)
        self._children.append(child)
        return child


def share_cores(config: WorkerConfig, num_cores: int) -> WorkerConfig:
    """Default threads of a worker: half of the cores, and all of them while others are idle."""
    if config.threads is not None:
        return config
    most = config.most_threads or num_cores
    return msgspec.structs.replace(config, threads=max(1, num_cores // 2), most_threads=most)
