"""One simulated request: as its client sees it, and on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.placing.ledger import PromptHashes
from router.placing.placement_request import Placement, PlacementRequest, Slo
from sim.traces import Arrival
from wire.identity import AttemptId, WorkerRef


@dataclass(slots=True)
class Served:
    """One request, as its client sees it."""

    arrival: Arrival
    slo: Slo
    first_s: float | None = None
    last_s: float | None = None
    refused_s: float | None = None
    placement: Placement | None = None
    split: bool = False
    cached: int = 0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float | None:
        if self.first_s is None or self.last_s is None:
            return None
        return (self.last_s - self.first_s) / max(1, self.arrival.num_new - 1)

    @property
    def good(self) -> bool:
        """Complete, and within both targets."""
        ttft_s, tpot_s, slo = self.ttft_s, self.tpot_s, self.slo
        if ttft_s is None or tpot_s is None:
            return False
        return (slo.ttft_s is None or ttft_s <= slo.ttft_s) and (
            slo.tpot_s is None or tpot_s <= slo.tpot_s
        )


@dataclass(slots=True)
class Ride:
    """What the router knows of it."""

    attempt_id: AttemptId
    served: Served
    need: PlacementRequest
    tokens: list[int]
    hashes: PromptHashes
    placement: Placement | None = None
    number: int = 0
    granted: tuple[list[int], WorkerRef] | None = None
    """Blocks that wait for it, and where."""
    asked: set[WorkerRef] = field(default_factory=set)
