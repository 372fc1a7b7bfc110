"""Which blocks went from which worker to which, for metrics: kept by whoever hears of it."""

from __future__ import annotations

import msgspec

from wire.handoff import Moved
from wire.identity import WorkerRef

MOST_PAIRS = 4096
"""Pairs of workers that are remembered; those of which nothing was heard for longest go first."""


class Handoffs(msgspec.Struct, frozen=True, kw_only=True):
    """Those from one worker to another, added up; copies of cached blocks are among them."""

    num: int = 0
    num_bytes: int = 0
    transfer_s: float = 0.0
    """While writes were under way."""
    hidden_s: float = 0.0
    """The part of it while prompts were still computed."""
    exposed_s: float = 0.0
    """From the end of prefill until the destination could go on."""

    def plus(self, moved: Moved) -> Handoffs:
        return Handoffs(
            num=self.num + 1,
            num_bytes=self.num_bytes + moved.num_bytes,
            transfer_s=self.transfer_s + moved.transfer_s,
            hidden_s=self.hidden_s + moved.hidden_s,
            exposed_s=self.exposed_s + moved.exposed_s,
        )


class HandoffBook:
    """By the ids of source and destination. One thread adds, others may read."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], Handoffs] = {}
        """Those that were heard of last come last."""
        self.num_bytes = 0
        """Of all pairs, forgotten ones too."""

    def add(self, source: WorkerRef, destination: WorkerRef, moved: Moved) -> None:
        self.num_bytes += moved.num_bytes
        pair = source.worker_id, destination.worker_id
        self._pairs[pair] = self._pairs.pop(pair, Handoffs()).plus(moved)
        if len(self._pairs) > MOST_PAIRS:
            del self._pairs[next(iter(self._pairs))]

    def pairs(self) -> dict[tuple[str, str], Handoffs]:
        return dict(self._pairs)
