"""What starts and watches the processes of a cluster: Ray actors, or plain child processes."""

from __future__ import annotations

from typing import Protocol

import msgspec

from cluster.config import ClusterConfig
from cluster.pools import PoolConfig
from router.config import RouterAddresses, RouterConfig
from worker.config import WorkerConfig

ROUTER_START_S = 300.0
"""How long a router may take to start. A few seconds are usual; on a busy machine, where Ray has
yet to start a process and to unpack the job's files for it, they become minutes."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """How far a worker has come. `address` is set when it is ready, `error` when it failed."""

    notes: tuple[str, ...] = ()
    """What it had to say of its start so far."""
    address: str | None = None
    process_id: int | None = None
    error: str | None = None
    waits_for: str | None = None
    """What keeps it from being placed."""


class RunningProcess(Protocol):
    """Something that was launched. None of its methods takes longer than a second or raises."""

    name: str

    def drain(self, timeout_s: float) -> None:
        """Begin to drain and then to stop."""
        ...

    def wait_stopped(self, timeout_s: float) -> None:
        """Wait for the end, and enforce it when the time is over."""
        ...


class RunningRouter(RunningProcess, Protocol):
    """A router that was launched, and may still load."""

    fleet: str
    """host:port where workers announce themselves, from now on: it will listen there."""

    @property
    def addresses(self) -> RouterAddresses:
        """Once it listens. Raises StartFailed."""
        ...

    def error(self) -> str | None:
        """Why it has died; None while it lives."""
        ...


class RunningWorker(RunningProcess, Protocol):
    """A worker that was launched, and may still load."""

    def status(self) -> WorkerStatus: ...

    def has_stopped(self) -> bool:
        """After `drain`: nothing of it is left to wait for."""
        ...


class Launcher(Protocol):
    """Raises StartFailed for whatever keeps a process from starting."""

    def start_router(self, name: str, config: RouterConfig) -> RunningRouter:
        """Returns when it is known where workers find it."""
        ...

    def start_worker(self, pool: PoolConfig, name: str, config: WorkerConfig) -> RunningWorker:
        """Of this pool, with the pool's `worker` settings made its own."""
        ...

    def adopt(self, config: ClusterConfig) -> None:
        """What is started from now on is of this configuration."""
        ...

    def close(self) -> None: ...
