"""What is known of a journey: who has the sequence, and what its stages took."""

from __future__ import annotations

import msgspec

from router.fleet.mailbox import WorkerLost
from router.placing.placement_request import Placement
from wire.handoff import Moved
from wire.identity import WorkerRef
from wire.messages import Handed, Kept, Prefilled


class AttemptFailed(Exception):
    """An attempt ended without result; `retryable` when another may succeed, `lost` when it ended
    with the session."""

    def __init__(
        self, stage: str, worker: WorkerRef, cause: str, *, retryable: bool, lost: bool = False
    ) -> None:
        super().__init__(f"{stage} on {worker} failed: {cause}")
        self.worker = worker
        self.retryable = retryable
        self.lost = lost


class AttemptLog(msgspec.Struct):
    """What is known of a journey while it runs, and after it."""

    attempts: int = 0
    fetched: Moved | None = None
    """The prefix that was copied to the first worker before it began."""
    placement: Placement | None = None
    prefilled: Prefilled | None = None
    handed: Handed | None = None
    released: bool = False
    kept: Kept | None = None
    lost_destination: WorkerLost | None = None
    """Its loss matters only once the sequence turns out to have moved there."""
    destination_spoke: bool = False

    def go_to(self, destination: WorkerRef) -> None:
        """The sequence stays where it is until this other destination has accepted it."""
        assert self.placement is not None
        self.placement = Placement(self.placement.first, destination)
        self.kept = self.lost_destination = None

    @property
    def stage(self) -> str:
        """What is under way."""
        if self.placement is None:
            return "placement"
        if self.prefilled is None and not self.destination_spoke:
            return "prefill"
        if self.placement.destination is None or self.moved or self.kept is not None:
            return "decode"
        return "transfer"

    @property
    def moved(self) -> bool:
        """The destination has the sequence; what becomes of the first worker is no matter."""
        return self.destination_spoke or self.handed is not None or self.released

    @property
    def home(self) -> WorkerRef | None:
        """Who decodes it and has all of its prompt; None while that is not known."""
        if self.placement is None or not (self.moved or self.prefilled is not None):
            return None
        if self.moved:
            return self.placement.destination
        stays = self.placement.destination is None or self.kept is not None
        return self.placement.first if stays else None

    @property
    def complete(self) -> bool:
        """Everything has been reported that a finished journey will report."""
        return self.prefilled is not None and (
            self.handed is not None or not self.destination_spoke
        )

    @property
    def destination(self) -> WorkerRef | None:
        """Where the sequence is to be decoded; None where the first worker does that, too."""
        return None if self.placement is None else self.placement.destination

    @property
    def worker(self) -> WorkerRef | None:
        """Who works on it now."""
        if self.placement is None:
            return None
        return self.placement.destination if self.moved else self.placement.first
