"""The simulated router: requests arrive, are judged, wait, and are sent to workers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from router.config import Roles, RouterConfig
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, Refusal, Slo, Split
from router.queueing.admission import Admission, Verdict
from router.queueing.admission_queue import ROUND_S
from router.queueing.fair_queue import Waiter
from router.roles.attainment import AttainmentMeter
from router.roles.controller import INTERVAL_S, RoleController
from router.roles.decision import RoleChange
from sim.clock import VirtualClock
from sim.journeys import Choose, Journeys
from sim.network import Network
from sim.request import OpenRequest, RequestResult
from wire.identity import WorkerRef
from wire.messages import (
    Failed,
    Handed,
    Kept,
    Message,
    Prefilled,
    Released,
    SetRole,
    StepOutputs,
    WorkerCard,
)
from wire.reports import CacheEvents, LinkReport, Report, WorkerState

PRODUCTION = RouterConfig(models={})


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a simulated router; see `router.config` for those of a real one."""

    max_queued: int | None = PRODUCTION.max_queued
    """Requests that wait at most; None lets every request go on at once."""
    split: Split = Split.AUTO
    max_attempts: int = PRODUCTION.max_attempts
    join_wait_s: float = PRODUCTION.join_wait_s
    """How long a request waits for a worker to join while there is none."""
    roles: Roles = PRODUCTION.roles
    choose: Callable[[list[WorkerCard]], Choose] | None = None
    """Places requests in another way than the ledger's; given all workers."""


class SimulatedRouter:
    """One router of one model. Workers have been added to its ledger before requests arrive."""

    def __init__(
        self,
        clock: VirtualClock,
        ledger: Ledger,
        network: Network,
        choose: Choose,
        settings: RouterSettings,
    ) -> None:
        self.num_ended = 0
        self.attainment = AttainmentMeter()
        """Targets met by requests that have ended, as a router counts them."""
        self._clock = clock
        self._ledger = ledger
        self._journeys = Journeys(
            clock,
            ledger,
            network,
            choose,
            settings.split,
            settings.roles is Roles.FOLLOW,
            settings.max_attempts,
            settings.join_wait_s,
            self._first_token,
            self._ended,
        )
        queued = settings.max_queued
        self._admission = None if queued is None else Admission(queued)
        self._waiting: dict[str, OpenRequest] = {}
        self._round_is_due = False
        self.role_changes: list[tuple[float, RoleChange]] = []
        """Times and changes of roles so far."""
        self._network = network
        self._roles = RoleController()
        self._follows = settings.roles is Roles.FOLLOW
        if self._follows:
            clock.after(INTERVAL_S, self._look_at_roles)

    def arrive(self, key: str, result: RequestResult) -> None:
        """A new request: it goes on, waits, or is refused."""
        request = OpenRequest(key, result, result.arrival.tokens(), PromptHashes())
        found = self._journeys.place(request, self._target(result))
        self._journeys.note_arrival(request)
        if isinstance(found, Refusal):
            self._journeys.begin(request)
        elif self._admission is None or not self._ledger.calibrated:
            self._journeys.submit(request, found)
        else:
            self._judge(self._admission, request, found)

    def receive(self, sender: WorkerRef, messages: list[Message]) -> None:
        """Messages that a worker sent at one time."""
        if self._ledger.load(sender) is None:
            return  # it is lost
        for message in messages:
            self._take(sender, message)

    def worker_lost(self, ref: WorkerRef, cause: str) -> None:
        self._ledger.drop(ref)
        self._journeys.worker_lost(ref, cause)
        self._look_soon()

    def _look_at_roles(self) -> None:
        """Mirrors `router.roles.role_keeper.RoleKeeper`."""
        change = self._roles.decide(self._ledger, self._clock.now)
        self._clock.after(INTERVAL_S, self._look_at_roles)
        if change is not None:
            self._ledger.set_role(change.ref, change.role)
            self.role_changes.append((self._clock.now, change))
            self._network.to_worker(change.ref, SetRole(role=change.role))

    def _take(self, sender: WorkerRef, message: Message) -> None:
        """Mirrors `router.fleet.fleet.Fleet`."""
        ledger = self._ledger
        match message:
            case StepOutputs():
                for output in message.outputs:
                    if output.finish is not None:
                        ledger.ended(sender, output.attempt_id)
                        self._look_soon()
                    self._journeys.take_output(sender, output)
            case Report():
                ledger.on_report(sender, message)
                if message.state is WorkerState.DRAINING:
                    ledger.set_ready(sender, False)
                self._look_soon()
            case CacheEvents():
                assert ledger.cached(sender, message), "cache events are missing"
            case LinkReport():
                ledger.measured(sender, message)
            case _:
                self._enter(sender, message)

    def _enter(self, sender: WorkerRef, news: Message) -> None:
        """The end of a stage of an attempt changes its worker's load."""
        ledger = self._ledger
        match news:
            case Prefilled():
                ledger.prefilled(sender, news.attempt_id)
            case Handed():
                ledger.arrived(sender, news.attempt_id)
            case Kept():
                ledger.kept(sender, news.attempt_id)
            case Released() | Failed():
                ledger.ended(sender, news.attempt_id)
            case _:
                raise TypeError(f"{type(news).__name__} for a router")
        self._look_soon()
        self._journeys.take_news(sender, news)

    def _judge(self, admission: Admission, request: OpenRequest, found: Placement) -> None:
        result, now = request.result, self._clock.now
        request.waiter = waiter = Waiter(
            key=request.key,
            tenant=request.arrival.tenant,
            work_s=found.prefill_s,
            arrived_s=now,
            target_s=result.slo.ttft_s,
        )
        match admission.arrive(waiter, found, self._ledger.num_ready, now).verdict:
            case Verdict.ADMIT:
                self._journeys.submit(request, found)
            case Verdict.WAIT:
                self._waiting[request.key] = request
                self._look_soon()
            case Verdict.REFUSE:
                self._refuse(request)

    def _look_soon(self) -> None:
        """A worker's load has changed: requests that wait may go on."""
        if self._waiting and not self._round_is_due:
            self._round_is_due = True
            self._clock.after(ROUND_S, self._look)

    def _look(self) -> None:
        self._round_is_due = False
        assert self._admission is not None
        while turn := self._admission.next(self._find, self._clock.now):
            request = self._waiting.pop(turn.waiter.key)
            if turn.found is None or turn.judged.verdict is Verdict.REFUSE:
                self._refuse(request)
            else:
                self._journeys.submit(request, turn.found)

    def _find(self, waiter: Waiter) -> Placement | None:
        request = self._waiting[waiter.key]
        found = self._journeys.place(request, self._target(request.result))
        return None if isinstance(found, Refusal) else found

    def _target(self, result: RequestResult) -> Slo:
        """The targets that remain, with the forecast's margin."""
        slo = result.slo
        if self._admission is None or slo.ttft_s is None:
            return slo
        left_s = result.arrival.at_s + slo.ttft_s - self._clock.now
        return Slo(self._admission.forecast.target(left_s), slo.tpot_s)

    def _first_token(self, request: OpenRequest) -> None:
        waiter = request.waiter
        if self._admission is not None and waiter is not None and waiter.target_s is not None:
            self._admission.forecast.on_first_token(self._clock.now <= waiter.due_s)

    def _refuse(self, request: OpenRequest) -> None:
        request.result.refused_s = self._clock.now
        self._ended(request)

    def _ended(self, request: OpenRequest) -> None:
        self.num_ended += 1
        result, now = request.result, self._clock.now
        targets = result.slo.ttft_s, result.slo.tpot_s
        if result.last_s is None:
            self.attainment.refused(*targets, now)
        else:
            self.attainment.ended(result.ttft_s, result.tpot_s, *targets, now)

    @property
    def num_queued(self) -> int:
        """Requests that wait in the router."""
        return len(self._waiting)
