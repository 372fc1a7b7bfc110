"""The recent activity of workers and links, from the counters that they report."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from runtime.handoffs import PairTotals
from wire.identity import WorkerRef
from wire.reports import WorkerTotals

WINDOW_S = 15.0
"""Time over which activity is averaged, at least."""
Ends = tuple[str, str]
"""Ids of a link's source and destination."""


class WorkerActivity(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's rates over the last seconds."""

    busy: float
    """Share of the time in which a step ran, 0 to 1."""
    step_s: float | None
    """Mean duration of a step; None if there was none."""
    prefilled_per_s: float
    """Prompt tokens computed."""
    generated_per_s: float
    """Tokens generated."""


class LinkActivity(msgspec.Struct, frozen=True, kw_only=True):
    """Handoffs over one link over the last seconds."""

    bytes_per_s: float
    handoffs_per_s: float
    exposed_s: float | None
    """Mean time of a handoff that prefill did not hide; None if there was none."""


class _Sample(msgspec.Struct, frozen=True):
    at_s: float
    workers: Mapping[WorkerRef, WorkerTotals]
    links: Mapping[Ends, PairTotals]


class ActivityMeter:
    """Keeps samples of all counters; differences of two are rates."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def sample(
        self,
        workers: Mapping[WorkerRef, WorkerTotals],
        links: Mapping[Ends, PairTotals],
        now: float,
    ) -> None:
        """Enter the present counters. Call every few seconds."""
        self._samples.append(_Sample(now, workers, links))
        while len(self._samples) > 2 and self._samples[1].at_s <= now - WINDOW_S:
            self._samples.popleft()

    def workers(self) -> dict[WorkerRef, WorkerActivity]:
        """The activity of each worker that is in the oldest and the newest sample."""
        ends = self._ends()
        if ends is None:
            return {}
        old, new = ends
        seconds = new.at_s - old.at_s
        return {
            ref: _worker_activity(old.workers[ref], totals, seconds)
            for ref, totals in new.workers.items()
            if ref in old.workers
        }

    def links(self) -> dict[Ends, LinkActivity]:
        """The activity of each link that has had handoffs."""
        ends = self._ends()
        if ends is None:
            return {}
        old, new = ends
        seconds = new.at_s - old.at_s
        return {
            pair: _link_activity(old.links.get(pair, PairTotals()), totals, seconds)
            for pair, totals in new.links.items()
        }

    def _ends(self) -> tuple[_Sample, _Sample] | None:
        """The oldest and the newest sample; None while no time is between them."""
        if len(self._samples) < 2 or self._samples[-1].at_s <= self._samples[0].at_s:
            return None
        return self._samples[0], self._samples[-1]


def _worker_activity(old: WorkerTotals, new: WorkerTotals, seconds: float) -> WorkerActivity:
    num_steps, step_s = new.num_steps - old.num_steps, new.step_s - old.step_s
    return WorkerActivity(
        busy=min(1.0, step_s / seconds),
        step_s=step_s / num_steps if num_steps else None,
        prefilled_per_s=(new.prefilled_tokens - old.prefilled_tokens) / seconds,
        generated_per_s=(new.generated_tokens - old.generated_tokens) / seconds,
    )


def _link_activity(old: PairTotals, new: PairTotals, seconds: float) -> LinkActivity:
    num = new.num - old.num
    return LinkActivity(
        bytes_per_s=(new.num_bytes - old.num_bytes) / seconds,
        handoffs_per_s=num / seconds,
        exposed_s=(new.exposed_s - old.exposed_s) / num if num > 0 else None,
    )
