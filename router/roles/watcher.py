"""Watches one model: samples its workers' counters, and tells its status."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import numpy as np

from router.config import RouterConfig
from router.errors import DeadlineExceeded, Overloaded, Unavailable
from router.fleet.fleet import Fleet
from router.fleet.member import Member
from router.placing.ledger import Ledger
from router.placing.workload import Workload
from router.requests.request import GenerateRequest, Timing
from router.roles.activity import ActivityMeter, Ends, LinkActivity, WorkerActivity
from router.roles.attainment import AttainmentMeter
from router.roles.bottleneck import Bottleneck, find_bottleneck, sharing_of
from router.roles.controller import RoleController
from router.roles.decision import describe
from router.roles.model_status import (
    ControllerView,
    LinkView,
    ModelStatus,
    QueueView,
    StepView,
    TrafficView,
    WorkerView,
)
from router.roles.scaling import SCALING_S, Scaler, ScalingView
from router.roles.sentences import sentences
from wire.identity import Role
from wire.messages import WorkerCard
from wire.reports import LinkReport, StepCosts, WorkerTotals

WATCH_S = 5.0
"""Interval between two looks."""
ATTAINMENT_S = 120.0
"""Window of the attainment that is told."""


class ModelWatcher:
    """One model's attainment and activity, and its status at any time."""

    def __init__(
        self,
        fleet: Fleet,
        config: RouterConfig,
        controller: RoleController,
        num_queued: Callable[[], int],
    ) -> None:
        """`num_queued` is called for the number of requests that wait in the router."""
        self.attainment = AttainmentMeter()
        self._fleet = fleet
        self._sharing = sharing_of(config.roles, config.split)
        self._controller = controller
        self._activity = ActivityMeter()
        self._num_queued = num_queued
        self._scaler = Scaler(config.worker_start_s, config.scale_down_after_s)

    async def keep(self) -> None:
        """Look every WATCH_S, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(WATCH_S)

    def look(self) -> None:
        """Sample what workers and links have done, and decide how many workers are wanted."""
        totals = {member.ref: _totals(member) for member in self._fleet.members()}
        self._activity.sample(totals, self._fleet.handoffs.pairs(), self._now)
        ledger = self._fleet.ledger
        workload = ledger.workload(self._now)
        if workload is not None:
            self._scaler.decide(self._scaling_view(ledger, workload), self._now)

    def wanted(self) -> dict[Role, int]:
        """Number of workers wanted by the role of their pool: as many as there are until requests
        have come."""
        counts = Counter(member.card.role for member in self._fleet.members())
        decided = self._scaler.wanted
        return {**counts, **({} if decided is None else decided.counts)}

    def _scaling_view(self, ledger: Ledger, workload: Workload) -> ScalingView:
        return ScalingView(
            table=ledger.table,
            homes={member.ref: member.card.role for member in self._fleet.members()},
            workload=workload,
            sharing=self._sharing,
            num_waiting=self._num_queued() + int(ledger.table.num_prompts.sum()),
            attainment=self.attainment.over(SCALING_S, self._now),
        )

    def answered(self, request: GenerateRequest, timing: Timing) -> None:
        """Count an answer by whether it met its request's targets."""
        targets = request.ttft_target_s, request.tpot_target_s
        self.attainment.ended(timing.ttft_s, timing.tpot_s, *targets, self._now)

    @contextmanager
    def counting_failure(self, request: GenerateRequest) -> Iterator[None]:
        """Count the request as refused if the block ends because workers have no room or no time
        for it."""
        try:
            yield
        except (Overloaded, Unavailable, DeadlineExceeded):
            self.attainment.refused(request.ttft_target_s, request.tpot_target_s, self._now)
            raise

    def status(self) -> ModelStatus:
        """The status now."""
        ledger, links = self._fleet.ledger, self._activity.links()
        workload = ledger.workload(self._now)
        told = ModelStatus(
            name=self._fleet.model,
            workers=self._workers(links),
            bottleneck=self._bottleneck(ledger, workload, links),
            attainment=self.attainment.over(ATTAINMENT_S, self._now),
            queues=_queues(ledger, self._num_queued()),
            traffic=None
            if workload is None
            else TrafficView(
                uncached_tokens=workload.uncached_tokens,
                cached_tokens=workload.cached_tokens,
                answer_tokens=workload.answer_tokens,
                tpot_target_s=workload.tpot_s,
            ),
            controller=self._changes(),
            wanted=self._scaler.wanted,
        )
        return msgspec.structs.replace(told, sentences=sentences(told))

    def _bottleneck(
        self, ledger: Ledger, workload: Workload | None, links: Mapping[Ends, LinkActivity]
    ) -> Bottleneck | None:
        if workload is None:
            return None
        reports = [(ref.worker_id, link) for ref, link in self._fleet.links()]
        load = link_load(links, reports)
        return find_bottleneck(ledger.table, workload, self._sharing, load)

    def _workers(self, links: Mapping[Ends, LinkActivity]) -> tuple[WorkerView, ...]:
        active = self._activity.workers()
        members = sorted(self._fleet.members(), key=lambda it: _natural(it.ref.worker_id))
        return tuple(worker_view(it, active.get(it.ref), links) for it in members)

    def _changes(self) -> tuple[ControllerView, ...]:
        return tuple(
            ControllerView(seconds_ago=self._now - it.time_s, text=describe(it))
            for it in reversed(self._controller.history)
        )

    @property
    def _now(self) -> float:
        return self._fleet.clock.now()


def worker_view(
    member: Member, activity: WorkerActivity | None, links: Mapping[Ends, LinkActivity]
) -> WorkerView:
    """One worker's line."""
    card, report = member.card, member.report
    name, pool_role, role = card.ref.worker_id, card.role.value, member.role.value
    if report is None:
        return WorkerView(worker_id=name, pool_role=pool_role, role=role, state=member.state.value)
    return WorkerView(
        worker_id=name,
        pool_role=pool_role,
        role=role,
        state=member.state.value,
        num_running=report.num_running,
        num_waiting=report.num_waiting,
        waiting_tokens=report.waiting_tokens,
        kv_used=1 - report.free_blocks / max(1, report.num_blocks),
        kv_cached=report.cached_blocks / max(1, report.num_blocks),
        busy=None if activity is None else activity.busy,
        step_s=None if activity is None else activity.step_s,
        prefilled_per_s=0.0 if activity is None else activity.prefilled_per_s,
        generated_per_s=0.0 if activity is None else activity.generated_per_s,
        steps=_step_view(card, report.costs),
        links=tuple(_link_view(name, link, links) for link in member.links.values()),
    )


def _step_view(card: WorkerCard, costs: StepCosts | None) -> StepView:
    return StepView(
        **({} if costs is None else msgspec.structs.asdict(costs)),
        pool_tokens=card.num_blocks * card.layout.block_size,
        token_bytes=card.layout.token_bytes,
        max_model_len=card.max_model_len,
    )


def link_load(links: Mapping[Ends, LinkActivity], reports: list[tuple[str, LinkReport]]) -> float:
    """Load of the busiest source: the bytes that it sends, of what its best link gives. Its links
    share one network interface."""
    used: defaultdict[str, float] = defaultdict(float)
    gives: defaultdict[str, float] = defaultdict(float)
    for (source, _), activity in links.items():
        used[source] += activity.bytes_per_s
    for source, report in reports:
        gives[source] = max(gives[source], report.bytes_per_s)
    return max((used[it] / gives[it] for it in used if gives[it]), default=0.0)


def _link_view(source: str, link: LinkReport, links: Mapping[Ends, LinkActivity]) -> LinkView:
    activity = links.get((source, link.destination.worker_id))
    return LinkView(
        destination=link.destination.worker_id,
        bytes_per_s=link.bytes_per_s,
        latency_s=link.latency_s,
        kind=link.kind,
        slow=link.slow,
        used_bytes_per_s=0.0 if activity is None else activity.bytes_per_s,
        exposed_s=None if activity is None else activity.exposed_s,
    )


def _queues(ledger: Ledger, num_queued: int) -> QueueView:
    table = ledger.table
    rows = np.flatnonzero(table.ready)
    tokens = table.queued_tokens[rows]
    seconds = (
        table.prompt_token_s[rows] * tokens + table.prompt_pair_s[rows] * table.queued_pairs[rows]
    )
    sharing = max(1, int(np.count_nonzero(tokens)))
    return QueueView(
        num_in_router=num_queued,
        num_prompts=int(table.num_prompts[rows].sum()),
        prompt_tokens=int(tokens.sum()),
        prompt_s=float(seconds.sum()) / sharing,
    )


def _totals(member: Member) -> WorkerTotals:
    return WorkerTotals() if member.report is None else member.report.totals


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which worker-10 follows worker-9."""
    pieces = name.replace(".", "-").split("-")
    return [(int(it), "") if it.isdecimal() else (-1, it) for it in pieces]
