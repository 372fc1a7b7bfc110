"""What starts and watches the processes of a cluster: Ray actors, or plain child processes."""

from __future__ import annotations

from typing import Protocol

import msgspec

from router.config import RouterConfig
from router.server import RouterAddresses
from wire.identity import Role
from worker.config import WorkerConfig


class WorkerStatus(msgspec.Struct, frozen=True):
    """How far a worker has come. `address` is set when it is ready, `error` when it failed."""

    loaded_bytes: int = 0
    total_bytes: int = 0
    address: str | None = None
    process_id: int | None = None
    error: str | None = None


class RunningWorker(Protocol):
    """A worker that was launched. None of its methods takes longer than a second or raises."""

    name: str

    def status(self) -> WorkerStatus: ...

    def drain(self, timeout_s: float) -> None:
        """Begin to drain and then to stop."""
        ...

    def wait_stopped(self, timeout_s: float) -> None:
        """Wait for the end, and enforce it when the time is over."""
        ...


class Launcher(Protocol):
    """Raises StartFailed for whatever keeps a process from starting."""

    def start_router(self, config: RouterConfig) -> RouterAddresses: ...

    def start_worker(self, role: Role, name: str, config: WorkerConfig) -> RunningWorker: ...

    def stop_router(self, drain_timeout_s: float) -> None: ...

    def close(self) -> None: ...
