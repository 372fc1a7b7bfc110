"""Process slots: one for each router and worker, with its current process and its restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.backoff import Backoff
from cluster.errors import StartFailed
from cluster.launcher import RunningRouter, RunningWorker, WorkerStatus
from cluster.pools import PoolConfig


@dataclass(slots=True)
class ProcessSlot:
    """A slot for one process. A dead process is restarted; `start_at` is set until then."""

    name: str
    backoff: Backoff
    num_starts: int = 1
    start_at: float | None = None

    @property
    def empty(self) -> bool:
        return self.start_at is not None

    def record_death(self, error: str, now: float, report: Callable[[str], None]) -> None:
        """Schedule the restart of a process that died, and report both."""
        self.start_at = self.backoff.restart_at(now)
        wait_s = self.start_at - now
        when = f"in {wait_s:.0f} s" if wait_s > 0 else "now"
        report(f"{self.name}   died: {error}; another starts {when}")

    def restart_when_due(
        self, start: Callable[[int], None], now: float, report: Callable[[str], None]
    ) -> None:
        """Call `start` with the number of the next incarnation, once the restart is due."""
        if self.start_at is None or now < self.start_at:
            return
        self.num_starts += 1
        self.start_at = None
        try:
            start(self.num_starts)
        except StartFailed as error:
            self.record_death(str(error), now, report)


@dataclass(slots=True, kw_only=True)
class RouterSlot(ProcessSlot):
    router: RunningRouter


@dataclass(slots=True)
class NotStarted:
    """A worker that could not be started: implements `RunningWorker`."""

    name: str
    why: str

    def status(self) -> WorkerStatus:
        return WorkerStatus(error=self.why)

    def drain(self, timeout_s: float) -> None:
        """No-op: there is no process."""

    def has_stopped(self) -> bool:
        return True

    def wait_stopped(self, timeout_s: float) -> None:
        """No-op: there is no process."""


@dataclass(slots=True, kw_only=True)
class WorkerSlot(ProcessSlot):
    pool: PoolConfig
    worker: RunningWorker
    num_notes_reported: int = 0
    reported_ready: bool = False
    reported_waiting: bool = False

    def fill(self, worker: RunningWorker) -> None:
        """Put a new incarnation into the slot."""
        self.worker, self.num_notes_reported = worker, 0
        self.reported_ready = self.reported_waiting = False

    def show(self, status: WorkerStatus, report: Callable[[str], None]) -> None:
        """Report what is new: missing resources, log lines of the start, readiness."""
        if status.waits_for is not None and not self.reported_waiting:
            self.reported_waiting = True
            report(f"{self.name}   waits for resources: it {status.waits_for}")
        for note in status.notes[self.num_notes_reported :]:
            report(f"{self.name}   {note}")
        self.num_notes_reported = len(status.notes)
        if status.address is not None and not self.reported_ready:
            self.reported_ready = True
            report(f"{self.name}   ready   at {status.address}   process {status.process_id}")
