"""The launcher's interface: starts the processes of a cluster, as Ray actors or child processes."""

from __future__ import annotations

from typing import Protocol

import msgspec

from cluster.config import ClusterConfig
from cluster.pools import PoolConfig
from router.config import RouterAddresses, RouterConfig
from router.roles.model_status import StatusBody
from worker.config import WorkerConfig

ROUTER_START_S = 300.0
"""Timeout for a router's start. A few seconds are usual; a busy machine, where Ray must first start
a process and unpack the job's files, can take minutes."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """Progress of a worker's start. `address` is set when it is ready, `error` when it failed."""

    notes: tuple[str, ...] = ()
    """Log lines of the start so far."""
    address: str | None = None
    process_id: int | None = None
    error: str | None = None
    waits_for: str | None = None
    """The resources that are missing, while the worker waits to be placed."""


class RunningProcess(Protocol):
    """A launched process. No method takes longer than a second, or raises what it does not name."""

    name: str

    def drain(self, timeout_s: float) -> None:
        """Begin to drain; the process then stops by itself."""
        ...

    def wait_stopped(self, timeout_s: float) -> None:
        """Wait until the process has ended, and kill it after `timeout_s`."""
        ...


class RunningRouter(RunningProcess, Protocol):
    """A launched router, which may still be loading."""

    fleet: str
    """host:port where workers will reach it; known before the router listens."""

    @property
    def addresses(self) -> RouterAddresses:
        """The router's addresses, once it listens. Raises StartFailed."""
        ...

    def error(self) -> str | None:
        """The reason of its death; None while it lives."""
        ...

    def model_status(self) -> StatusBody:
        """The status of its models. Raises NoStatus."""
        ...


class RunningWorker(RunningProcess, Protocol):
    """A launched worker, which may still be loading."""

    def status(self) -> WorkerStatus: ...

    def has_stopped(self) -> bool:
        """Whether the worker has ended after `drain`."""
        ...


class Launcher(Protocol):
    """Starts processes. Methods raise StartFailed when a process cannot start."""

    def start_router(self, name: str, config: RouterConfig) -> RunningRouter:
        """Start a router; returns as soon as its address for workers is known."""
        ...

    def start_worker(self, pool: PoolConfig, name: str, config: WorkerConfig) -> RunningWorker:
        """Start a worker of the pool; `config` is the pool's `worker` settings with this worker's
        name."""
        ...

    def adopt(self, config: ClusterConfig) -> None:
        """Use this configuration for all later starts."""
        ...

    def close(self) -> None: ...
