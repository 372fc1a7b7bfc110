"""The fleets of all models of a router."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.fleet.fleet import Fleet, taken_id
from router.fleet.member import Member, MemberState
from router.fleet.refusals import Refusals
from router.placing.revisions import RevisionView
from runtime.handoffs import HandoffCounters
from wire.identity import Role, WorkerRef
from wire.messages import WorkerCard
from wire.reports import LinkReport


class Fleets:
    """One fleet per model; each worker joins the fleet of its model.

    A request sees only its model's fleet, so load and prefix index of models never mix. `join` is
    the callback of FleetService.
    """

    def __init__(self, fleets: Sequence[Fleet]) -> None:
        self._by_model = {fleet.model: fleet for fleet in fleets}
        self.handoffs = HandoffCounters()
        self._refusals = Refusals()
        for fleet in fleets:
            fleet.handoffs = self.handoffs

    def join(self, card: WorkerCard) -> str | None:
        """Add a worker to the fleet of its model. Returns the reason for refusing it, or None."""
        refused = self._join(card)
        self._refusals.record(card, refused)
        return refused

    def _join(self, card: WorkerCard) -> str | None:
        fleet = self._by_model.get(card.model)
        if fleet is None:
            served = ", ".join(map(repr, self._by_model))
            return f"it serves model {card.model!r}, this router serves {served}"
        namesake = self._find(card.ref.worker_id)
        if namesake is not None and namesake.card.model != card.model:
            return taken_id(card, namesake.card)
        return fleet.join(card)

    @property
    def num_failed_handoffs(self) -> int:
        """Number of handoffs that failed, after which the first worker decoded."""
        return sum(fleet.num_failed_handoffs for fleet in self._by_model.values())

    def count(self) -> dict[tuple[str, Role, MemberState], int]:
        """Number of members by model, role and state, zeros included."""
        return {
            key: count for fleet in self._by_model.values() for key, count in fleet.count().items()
        }

    def members(self) -> list[Member]:
        return [member for fleet in self._by_model.values() for member in fleet.members()]

    def revisions(self) -> list[tuple[str, RevisionView]]:
        """The revisions of all models, with the model's name."""
        return [(fleet.model, it) for fleet in self._by_model.values() for it in fleet.revisions()]

    def links(self) -> list[tuple[WorkerRef, LinkReport]]:
        """Link reports of all workers, each with its source."""
        return [link for fleet in self._by_model.values() for link in fleet.links()]

    def block_size(self, ref: WorkerRef) -> int:
        """The worker's block size in tokens; 0 if it has gone."""
        return max(fleet.block_size(ref) for fleet in self._by_model.values())

    async def close(self) -> None:
        """Close the sessions with all workers."""
        await asyncio.gather(*(fleet.close() for fleet in self._by_model.values()))

    def _find(self, worker_id: str) -> Member | None:
        return next((it for it in self.members() if it.ref.worker_id == worker_id), None)
