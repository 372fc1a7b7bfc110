"""Totals of handoffs for each pair of workers, for metrics of workers and routers."""

from __future__ import annotations

import msgspec

from wire.handoff import Moved
from wire.identity import WorkerRef

MAX_PAIRS = 4096
"""Maximum number of pairs; the one without handoffs for longest is dropped first."""


class PairTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of the handoffs from one worker to another, copies of cached blocks included."""

    num: int = 0
    num_bytes: int = 0
    transfer_s: float = 0.0
    """Time while writes were in flight."""
    hidden_s: float = 0.0
    """The part of `transfer_s` that overlapped prefill."""
    exposed_s: float = 0.0
    """Time from the end of prefill until the destination could continue."""

    def plus(self, moved: Moved) -> PairTotals:
        return PairTotals(
            num=self.num + 1,
            num_bytes=self.num_bytes + moved.num_bytes,
            transfer_s=self.transfer_s + moved.transfer_s,
            hidden_s=self.hidden_s + moved.hidden_s,
            exposed_s=self.exposed_s + moved.exposed_s,
        )


class HandoffCounters:
    """Handoff totals by the ids of source and destination. One thread adds; others may read."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], PairTotals] = {}
        """In the order of the latest handoff."""
        self.num_bytes = 0
        """Bytes of all pairs, dropped ones included."""

    def add(self, source: WorkerRef, destination: WorkerRef, moved: Moved) -> None:
        self.num_bytes += moved.num_bytes
        pair = source.worker_id, destination.worker_id
        self._pairs[pair] = self._pairs.pop(pair, PairTotals()).plus(moved)
        if len(self._pairs) > MAX_PAIRS:
            del self._pairs[next(iter(self._pairs))]

    def pairs(self) -> dict[tuple[str, str], PairTotals]:
        return dict(self._pairs)
