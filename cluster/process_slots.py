"""The places of a cluster, who fills each of them now, and since when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.backoff import Backoff
from cluster.errors import StartFailed
from cluster.launcher import RunningRouter, RunningWorker, WorkerStatus
from cluster.pools import PoolConfig


@dataclass(slots=True)
class ProcessSlot:
    """One place. Who died is started again, sooner or later; `start_at` is set until then."""

    name: str
    backoff: Backoff
    num_starts: int = 1
    start_at: float | None = None

    @property
    def empty(self) -> bool:
        return self.start_at is not None

    def bury(self, error: str, now: float, tell: Callable[[str], None]) -> None:
        """Say what happened, and when another one is started."""
        self.start_at = self.backoff.died(now)
        wait_s = self.start_at - now
        when = f"in {wait_s:.0f} s" if wait_s > 0 else "now"
        tell(f"{self.name}   died: {error}; another starts {when}")

    def try_again(
        self, start: Callable[[int], None], now: float, tell: Callable[[str], None]
    ) -> None:
        """Once it is time, `start` the next incarnation, whose number it is given."""
        if self.start_at is None or now < self.start_at:
            return
        self.num_starts += 1
        self.start_at = None
        try:
            start(self.num_starts)
        except StartFailed as error:
            self.bury(str(error), now, tell)


@dataclass(slots=True, kw_only=True)
class RouterSlot(ProcessSlot):
    router: RunningRouter


@dataclass(slots=True)
class NotStarted:
    """In the place of a worker that could not be started: implements `RunningWorker`."""

    name: str
    why: str

    def status(self) -> WorkerStatus:
        return WorkerStatus(error=self.why)

    def drain(self, timeout_s: float) -> None:
        """There is nothing to drain."""

    def has_stopped(self) -> bool:
        return True

    def wait_stopped(self, timeout_s: float) -> None:
        """There is nothing to wait for."""


@dataclass(slots=True, kw_only=True)
class WorkerSlot(ProcessSlot):
    pool: PoolConfig
    worker: RunningWorker
    num_notes_told: int = 0
    told_ready: bool = False
    told_waiting: bool = False

    def fill(self, worker: RunningWorker) -> None:
        """A new incarnation, which loads its weights anew."""
        self.worker, self.num_notes_told = worker, 0
        self.told_ready = self.told_waiting = False

    def show(self, status: WorkerStatus, tell: Callable[[str], None]) -> None:
        """A line while it has no room, for what it says of its start, and when it serves."""
        if status.waits_for is not None and not self.told_waiting:
            self.told_waiting = True
            tell(f"{self.name}   waits for room: it {status.waits_for}")
        for note in status.notes[self.num_notes_told :]:
            tell(f"{self.name}   {note}")
        self.num_notes_told = len(status.notes)
        if status.address is not None and not self.told_ready:
            self.told_ready = True
            tell(f"{self.name}   ready   at {status.address}   process {status.process_id}")
