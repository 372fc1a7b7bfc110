"""Reports of a worker to its routers: its load, and which blocks its caches hold."""

from __future__ import annotations

from collections.abc import Mapping

from engine.schedule.step_times import StepWork
from engine.sequence import Sequence
from wire.reports import CacheEvents, LinkReport, Report, WorkerState, WorkerTotals
from worker.steps.calibration import Calibration, load_of
from worker.steps.step_context import StepContext


class Reports:
    """Makes the worker's load reports and sends them to routers.

    Lives in the step loop's thread; other threads may read `last`.
    `offers` counts the offers of other workers by the answer.
    """

    def __init__(self, context: StepContext, offers: Mapping[str, int]) -> None:
        self._engine = context.engine
        self._outbox = context.outbox
        self._calibration = Calibration(context.config.tpot_target_s)
        self._offers = offers
        self._last_submissions: dict[str, int] = {}
        self._event_number = 0
        self._num_steps = 0
        self._step_s = 0.0
        self._prefilled_tokens = 0
        self._generated_tokens = 0
        self.last: Report | None = None
        """The last report; None before the first."""

    def submitted(self, router_id: str, number: int) -> None:
        """A router's submission of this number has arrived; see `wire.reports.Report.heard`."""
        self._last_submissions[router_id] = max(number, self._last_submissions.get(router_id, 0))

    def forget(self, router_id: str) -> None:
        """A router's session has ended; a new one counts its submissions from 1."""
        self._last_submissions.pop(router_id, None)

    def observe(self, seconds: float, now: float, work: StepWork | None = None) -> None:
        """A step took `seconds`: the one that the engine has landed, unless its work is given."""
        self._num_steps += 1
        self._step_s += seconds
        if work is None:
            self._calibration.observe(self._engine.completed_slices, seconds, now)
        elif self._calibration.is_due(now):
            self._calibration.learn(work, seconds, now)

    def prefilled(self, sequence: Sequence) -> None:
        """A sequence's first token was sampled."""
        self._prefilled_tokens += max(0, sequence.num_prompt - sequence.num_cached)

    def generated(self, num_tokens: int) -> None:
        self._generated_tokens += num_tokens

    def load(self, state: WorkerState, num_handoffs: int) -> Report:
        self.last = load_of(
            self._engine,
            state,
            num_handoffs,
            self._last_submissions,
            self._calibration,
            self._totals(),
        )
        return self.last

    def send_snapshot(self, router_id: str, links: tuple[LinkReport, ...], load: Report) -> None:
        """Send links, the whole cache index and the load to a router that has just connected."""
        for link in links:
            self._outbox.to_router(router_id, link)
        events = CacheEvents(
            number=self._event_number,
            stored=tuple(self._engine.pool.cached_hashes()),
            host_stored=tuple(self._engine.memory.host_hashes()),
            snapshot=True,
        )
        self._outbox.to_router(router_id, events)
        self._outbox.to_router(router_id, load)

    def send_cache_events(self) -> None:
        """Broadcast which cached blocks have come and gone since the last call."""
        stored, removed = self._engine.pool.take_events()
        host_stored, host_removed = self._engine.memory.take_host_events()
        if stored or removed or host_stored or host_removed:
            self._event_number += 1
            self._outbox.to_routers(
                CacheEvents(
                    number=self._event_number,
                    stored=tuple(stored),
                    removed=tuple(removed),
                    host_stored=tuple(host_stored),
                    host_removed=tuple(host_removed),
                )
            )

    def _totals(self) -> WorkerTotals:
        return WorkerTotals(
            num_steps=self._num_steps,
            step_s=self._step_s,
            prefilled_tokens=self._prefilled_tokens,
            generated_tokens=self._generated_tokens,
            found_blocks=self._engine.pool.num_found,
            found_host_blocks=self._engine.memory.num_host_found,
            offers=dict(self._offers),
        )
