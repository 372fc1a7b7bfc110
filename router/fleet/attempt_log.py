"""The log of a request's attempts: which worker has the sequence, and the duration of each
stage."""

from __future__ import annotations

import msgspec

from router.fleet.worker_events import WorkerLost
from router.placing.placement_request import Placement
from wire.handoff import Moved
from wire.identity import WorkerRef
from wire.messages import Handed, Kept, Prefilled


class AttemptFailed(Exception):
    """An attempt ended without a result.

    `retryable` is true if another attempt may succeed, `lost` if the session with the worker ended.
    """

    def __init__(
        self, stage: str, worker: WorkerRef, cause: str, *, retryable: bool, lost: bool = False
    ) -> None:
        super().__init__(f"{stage} on {worker} failed: {cause}")
        self.worker = worker
        self.retryable = retryable
        self.lost = lost


class AttemptLog(msgspec.Struct):
    """The state of a request over its attempts, while it runs and afterwards."""

    attempts: int = 0
    fetched: Moved | None = None
    """The prefix that was copied to the first worker before prefill."""
    placement: Placement | None = None
    prefilled: Prefilled | None = None
    handed: Handed | None = None
    released: bool = False
    kept: Kept | None = None
    lost_destination: WorkerLost | None = None
    """Loss of the destination, which matters only if the sequence turns out to have moved there."""
    destination_spoke: bool = False

    def go_to(self, destination: WorkerRef) -> None:
        """Record another destination; the sequence stays where it is until that worker has accepted
        it."""
        assert self.placement is not None
        self.placement = Placement(self.placement.first, destination)
        self.kept = self.lost_destination = None

    @property
    def stage(self) -> str:
        """The current stage: placement, prefill, transfer or decode."""
        if self.placement is None:
            return "placement"
        if self.prefilled is None and not self.destination_spoke:
            return "prefill"
        if self.placement.destination is None or self.moved or self.kept is not None:
            return "decode"
        return "transfer"

    @property
    def moved(self) -> bool:
        """Whether the destination has the sequence; the first worker no longer matters then."""
        return self.destination_spoke or self.handed is not None or self.released

    def matters(self, worker: WorkerRef) -> bool:
        """Whether the worker can fail the attempt: once the sequence moved, only its destination
        can."""
        assert self.placement is not None
        if worker == self.placement.destination:
            return True
        return worker == self.placement.first and not self.moved

    @property
    def home(self) -> WorkerRef | None:
        """The worker that decodes and has the whole prompt cached; None while it is not known."""
        if self.placement is None or not (self.moved or self.prefilled is not None):
            return None
        if self.moved:
            return self.placement.destination
        stays = self.placement.destination is None or self.kept is not None
        return self.placement.first if stays else None

    @property
    def complete(self) -> bool:
        """Whether all reports of a finished request have arrived."""
        return self.prefilled is not None and (
            self.handed is not None or not self.destination_spoke
        )

    @property
    def destination(self) -> WorkerRef | None:
        """The worker that decodes after a handoff; None if the first worker decodes, too."""
        return None if self.placement is None else self.placement.destination

    @property
    def worker(self) -> WorkerRef | None:
        """The worker that has the sequence now."""
        if self.placement is None:
            return None
        return self.placement.destination if self.moved else self.placement.first
