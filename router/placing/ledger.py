"""All that this router knows of its workers' load, caches and links; pure, time is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from kv_transfer.hashing import extend_hashes
from router.placing.cost_model import Hits
from router.placing.fleet_table import FleetTable, Floats
from router.placing.lengths import Lengths
from router.placing.placement import another_destination, place, prefix_holder
from router.placing.placement_request import Placement, PlacementRequest, Refusal
from router.placing.prefix_index import PrefixIndex
from router.placing.worker_load import WorkerLoad
from router.placing.workload import Workload, WorkloadMeter
from wire.identity import AttemptId, Role, WorkerRef
from wire.messages import WorkerCard
from wire.reports import CacheEvents, LinkReport, Report
from wire.traits import NO_TRAITS, RequestTraits

LIFETIME_RATE = 0.02
"""Weight of the newest answer in the mean duration of answers."""
ARRIVALS_S = 10.0
"""Averaging window of the arrival rate, in seconds."""


class PromptHashes:
    """Block hashes of one growing sequence, each computed once for every block size asked for."""

    def __init__(self, traits: RequestTraits = NO_TRAITS) -> None:
        self._traits = traits
        self._hashes: dict[int, list[bytes]] = {}

    def of(self, tokens: Sequence[int], block_size: int) -> list[bytes]:
        hashes = self._hashes.setdefault(block_size, [])
        extend_hashes(hashes, tokens, block_size, self._traits)
        return hashes


class Ledger:
    """Rows come with `add` and go with `drop`; attempts are entered when placed, until they end."""

    def __init__(
        self, router_id: str, index_max_entries: int, lengths: Lengths | None = None
    ) -> None:
        """`lengths` are shared where several ledgers have the same clients."""
        self._router_id = router_id
        self.table = FleetTable()
        self.index = PrefixIndex(index_max_entries)
        self.lengths = lengths or Lengths()
        self.meter = WorkloadMeter()
        self._loads: dict[WorkerRef, WorkerLoad] = {}
        self._arrived_s = 0.0
        self.version = 0
        """Changes with what workers have to do, and with who they are."""

    def add(self, card: WorkerCard) -> None:
        """A worker that is not ready yet."""
        row = self.table.add(card)
        self.index.add(card.ref, row)
        self._loads[card.ref] = WorkerLoad(self._router_id, card.layout.block_size)

    def set_ready(self, ref: WorkerRef, ready: bool) -> None:
        row = self.table.row(ref)
        if row is not None:
            self.table.set_ready(row, ready)
            self.version += 1

    def drop(self, ref: WorkerRef) -> None:
        self.index.drop(ref)
        self.table.remove(ref)
        self._loads.pop(ref, None)
        self.version += 1

    def follow(self, former: Ledger) -> None:
        """Take over what the previous revision's ledger has learned: lifetimes, targets and request
        rate."""
        for learned in ("lifetime_s", "usual_ttft_s", "requests_per_s"):
            setattr(self.table, learned, getattr(former.table, learned))
        self.meter = former.meter

    @property
    def num_ready(self) -> int:
        return self.table.num_ready

    @property
    def calibrated(self) -> bool:
        """Every worker that is ready, or another of its kind, has told what its steps take."""
        return self.table.all_calibrated

    def load(self, ref: WorkerRef) -> WorkerLoad | None:
        return self._loads.get(ref)

    def on_report(self, ref: WorkerRef, report: Report) -> None:
        load, row = self._loads.get(ref), self.table.row(ref)
        if load is None or row is None:
            return
        if not load.knows(report):
            self.meter.generated(load.on_report(report))
            self.meter.came_elsewhere(load.num_elsewhere)
            self._show(ref)
        if report.role is not None:
            self.table.set_role(row, report.role)
        if report.costs is not None:
            self.table.calibrate(row, report.costs)
        self.table.step_target_s[row] = report.step_target_s or 0.0

    def cached(self, ref: WorkerRef, events: CacheEvents) -> bool:
        """False when events were missed: ask for a snapshot."""
        return self.index.apply(ref, events)

    def measured(self, ref: WorkerRef, link: LinkReport) -> None:
        self.table.set_link(ref, link)

    def hits(self, tokens: Sequence[int], hashes: PromptHashes) -> Hits:
        """How much of these tokens every worker has."""
        table = self.table
        num_rows = len(table.refs)
        if not self.index.num_entries:
            return Hits.none(num_rows)
        if len(table.block_sizes) == 1:
            (size,) = table.block_sizes
            found = self.index.num_hits(hashes.of(tokens, size), num_rows)
            on_device: Floats = found[0] * np.float64(size)
            same = found[0] is found[1]
            return Hits(on_device, on_device if same else found[1] * np.float64(size))
        device, either = np.zeros(num_rows), np.zeros(num_rows)
        for size in table.block_sizes:
            found = self.index.num_hits(hashes.of(tokens, size), num_rows)
            rows = table.block_size == size
            device[rows], either[rows] = found[0][rows] * size, found[1][rows] * size
        return Hits(device, either)

    def place(self, request: PlacementRequest, hits: Hits, now: float) -> Placement | Refusal:
        return place(self.table, request, hits, now)

    def another_destination(
        self, request: PlacementRequest, hits: Hits, first: WorkerRef, now: float
    ) -> WorkerRef | None:
        return another_destination(self.table, request, hits, first, now)

    def prefix_holder(self, hits: Hits, first: WorkerRef, min_tokens: int) -> WorkerRef | None:
        return prefix_holder(self.table, hits, first, min_tokens)

    def came(self, num_prompt_tokens: int, tpot_s: float | None, hits: Hits, now: float) -> None:
        """A request has come, whatever becomes of it; `tpot_s` is its target."""
        cached = min(num_prompt_tokens - 1.0, float(hits.either.max(initial=0.0)))
        self.meter.observe(num_prompt_tokens - cached, cached, tpot_s, now)

    def workload(self, now: float) -> Workload | None:
        """What requests bring; None before the first."""
        return self.meter.workload(self.lengths.mean, now)

    def router_ids(self) -> set[str]:
        """Routers that have submitted requests to these workers lately; this one where there is
        none."""
        found: set[str] = set().union(*(load.router_ids for load in self._loads.values()))
        return found or {self._router_id}

    def set_role(self, ref: WorkerRef, role: Role) -> None:
        """The worker is told to take this role."""
        row = self.table.row(ref)
        if row is not None:
            self.table.set_role(row, role)
            self.version += 1

    def placed(
        self,
        attempt_id: AttemptId,
        placement: Placement,
        request: PlacementRequest,
        hits: Hits,
        now: float,
    ) -> None:
        """The attempt counts on its workers from now on."""
        self._note_arrival(request.slo.ttft_s, now)
        row, load = self.table.row(placement.first), self._loads[placement.first]
        assert row is not None
        prompt, growth = request.num_prompt_tokens, request.work.num_new_tokens
        uncached = max(1.0, prompt - float(hits.either[row]))
        load.place(
            attempt_id,
            tokens=uncached,
            pairs=uncached * (prompt - uncached / 2),
            context=prompt,
            growth=growth,
            stays=placement.destination is None,
        )
        self.table.interrupt(row, placement.prompt_s, now)
        self._show(placement.first)
        if placement.destination is not None:
            self.expect(placement.destination, attempt_id, request)

    def submitted(self, ref: WorkerRef, attempt_id: AttemptId) -> int:
        """The number of this submission to the worker; see Submit."""
        load = self._loads.get(ref)
        return 0 if load is None else load.submit(attempt_id)

    def expect(self, ref: WorkerRef, attempt_id: AttemptId, request: PlacementRequest) -> None:
        """The attempt will be handed to this worker."""
        load = self._loads.get(ref)
        if load is not None:
            load.expect(
                attempt_id, context=request.num_prompt_tokens, growth=request.work.num_new_tokens
            )
            self._show(ref)

    def prefilled(self, ref: WorkerRef, attempt_id: AttemptId) -> None:
        self._tell(ref, attempt_id, WorkerLoad.prefilled)

    def kept(self, ref: WorkerRef, attempt_id: AttemptId) -> None:
        """The first worker goes on with what it was to hand over."""
        self._tell(ref, attempt_id, WorkerLoad.stays)

    def arrived(self, ref: WorkerRef, attempt_id: AttemptId) -> None:
        self._tell(ref, attempt_id, WorkerLoad.arrived)

    def ended(self, ref: WorkerRef, attempt_id: AttemptId) -> None:
        self._tell(ref, attempt_id, WorkerLoad.ended)

    def _tell(
        self, ref: WorkerRef, attempt_id: AttemptId, event: Callable[[WorkerLoad, AttemptId], None]
    ) -> None:
        """Workers that are gone have nothing to do any more."""
        load = self._loads.get(ref)
        if load is not None:
            event(load, attempt_id)
            self._show(ref)

    def answered(self, tenant: str, num_tokens: int, decode_s: float) -> None:
        """An answer is complete; its tokens behind the first took so long."""
        self.lengths.observe(tenant, num_tokens)
        self.meter.answered(num_tokens, decode_s)
        self.table.lifetime_s += LIFETIME_RATE * (max(0.1, decode_s) - self.table.lifetime_s)

    def _note_arrival(self, ttft_s: float | None, now: float) -> None:
        """How many requests come, and what they usually want, is learned from the newest."""
        table = self.table
        age = max(0.0, now - self._arrived_s)
        self._arrived_s = now
        num_ready = max(1, self.num_ready)
        kept = math.exp(-age / ARRIVALS_S)
        table.requests_per_s = kept * table.requests_per_s + 1 / (ARRIVALS_S * num_ready)
        if ttft_s is not None:
            before = ttft_s if table.usual_ttft_s is None else table.usual_ttft_s
            table.usual_ttft_s = before + LIFETIME_RATE * (ttft_s - before)

    def _show(self, ref: WorkerRef) -> None:
        self.version += 1
        row = self.table.row(ref)
        if row is not None:
            self.table.set_load(row, self._loads[ref])
