"""Attempts at workers: submitted, handed over, and made again elsewhere when a worker fails.

The simulation's counterpart of `router.journeys`, for clients that read at once. Attempt log,
ledger and placement are production's; there is no event loop, session or text.
"""

from __future__ import annotations

from collections.abc import Callable

from router.fleet.attempt_log import AttemptLog
from router.fleet.worker_events import WorkerLost
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger
from router.placing.placement_request import (
    Placement,
    PlacementRequest,
    Refusal,
    RefusalReason,
    Slo,
    Split,
)
from sim.clock import VirtualClock
from sim.network import Network
from sim.request import OpenRequest
from wire.identity import AttemptId, WorkerRef
from wire.messages import (
    Cancel,
    Destination,
    Failed,
    Handed,
    Kept,
    Move,
    Output,
    Prefilled,
    Released,
    Submit,
)
from wire.sampling import SamplingParams
from wire.traits import RequestTraits

MOST_TOKENS = 100_000
"""The answer's longest length as the router is told it: it has to learn how long answers are."""

POLL_S = 0.05
"""Interval between attempts to place a request while there is no worker."""

Choose = Callable[[PlacementRequest, Hits, float], Placement | Refusal]
AttemptNews = Prefilled | Handed | Released | Kept | Failed


class Journeys:
    """All attempts of all requests. `on_first_token` and `on_end` are called once for a request."""

    def __init__(
        self,
        clock: VirtualClock,
        ledger: Ledger,
        network: Network,
        choose: Choose,
        split: Split,
        roles_follow: bool,
        max_attempts: int,
        join_wait_s: float,
        on_first_token: Callable[[OpenRequest], None],
        on_end: Callable[[OpenRequest], None],
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._network = network
        self._choose = choose
        self._split = split
        self._roles_follow = roles_follow
        self._max_attempts = max_attempts
        self._join_wait_s = join_wait_s
        self._on_first_token = on_first_token
        self._on_end = on_end
        self._open: dict[AttemptId, OpenRequest] = {}

    def place(self, request: OpenRequest, slo: Slo) -> Placement | Refusal:
        """The workers that would serve the request now."""
        return self._choose(self.need(request, slo), self._hits(request), self._clock.now)

    def note_arrival(self, request: OpenRequest) -> None:
        """The ledger learns what requests bring."""
        num_prompt, tpot_s = len(request.tokens), request.result.slo.tpot_s
        self._ledger.came(num_prompt, tpot_s, self._hits(request), self._clock.now)

    def need(self, request: OpenRequest, slo: Slo) -> PlacementRequest:
        arrival, num_output = request.arrival, request.num_output
        expected = self._ledger.lengths.expected(arrival.tenant, MOST_TOKENS)
        return PlacementRequest(
            key=request.key,
            num_prompt_tokens=len(request.tokens),
            num_tokens=arrival.num_prompt + arrival.num_new,
            num_new_tokens=max(1.0, expected - num_output),
            single_token=arrival.num_new - num_output == 1,
            avoid=frozenset(request.avoid | request.refused),
            slo=slo,
            split=self._split,
            roles_follow=self._roles_follow,
        )

    def begin(self, request: OpenRequest, waited_s: float = 0.0) -> None:
        """Begin an attempt as soon as there is a worker; the request fails if none joins in
        time."""
        found = self.place(request, self._left(request))
        if isinstance(found, Placement):
            self.submit(request, found)
        elif found.reason is RefusalReason.NO_WORKERS and waited_s < self._join_wait_s:
            self._clock.after(POLL_S, lambda: self.begin(request, waited_s + POLL_S))
        else:
            request.result.failure = found.detail
            self._on_end(request)

    def submit(self, request: OpenRequest, placement: Placement) -> None:
        """Begin an attempt; the ledger counts it on both workers from now on."""
        result, ledger = request.result, self._ledger
        result.attempts += 1
        request.log = AttemptLog(attempts=result.attempts, placement=placement)
        result.placement = result.placement or placement
        attempt_id, need = request.attempt_id, self.need(request, result.slo)
        ledger.placed(attempt_id, placement, need, self._hits(request), self._clock.now)
        destination = placement.destination
        request.members = [placement.first, *([] if destination is None else [destination])]
        request.refused.clear()
        self._open[attempt_id] = request
        submit = Submit(
            attempt_id=attempt_id,
            tokens=tuple(request.tokens),
            num_prompt=request.arrival.num_prompt,
            sampling=SamplingParams(max_tokens=request.arrival.num_new, ignore_eos=True),
            destination=None if destination is None else Destination(destination, ""),
            traits=RequestTraits(tenant=request.arrival.tenant),
            number=ledger.submitted(placement.first, attempt_id),
        )
        self._network.to_worker(placement.first, submit)

    def take_output(self, sender: WorkerRef, output: Output) -> None:
        """Tokens of an attempt; ignored when it has ended."""
        request = self._open.get(output.attempt_id)
        if request is None:
            return
        log, result = request.log, request.result
        if not log.destination_spoke:
            log.destination_spoke = sender == log.destination
        if not request.take(output):
            self._fail(request, sender, f"tokens before {output.position} are missing")
            return
        if result.first_s is None:
            result.first_s = self._clock.now
            self._on_first_token(request)
        if output.finish is not None:
            self._finish(request)

    def take_news(self, sender: WorkerRef, news: AttemptNews) -> None:
        """A report about an attempt other than its tokens."""
        request = self._open.get(news.attempt_id)
        if request is None:
            return
        log = request.log
        match news:
            case Prefilled():
                log.prefilled, request.result.cached = news, news.cached_tokens
            case Handed():
                log.handed = news
            case Released():
                log.released = True
                if log.lost_destination is not None and log.destination is not None:
                    self._fail(request, log.destination, log.lost_destination.cause)
            case Kept():
                log.kept = news
                self._try_another_destination(request)
            case Failed() if log.matters(sender):
                self._fail(request, sender, news.cause, retryable=news.retryable)

    def worker_lost(self, ref: WorkerRef, cause: str) -> None:
        """Attempts that need this worker begin again elsewhere."""
        for request in list(self._open.values()):
            log = request.log
            if ref == log.destination and not log.moved:
                log.lost_destination = WorkerLost(cause)
            elif ref in request.members and log.matters(ref):
                self._fail(request, ref, cause)

    def _hits(self, request: OpenRequest) -> Hits:
        return self._ledger.hits(request.tokens, request.hashes)

    def _try_another_destination(self, request: OpenRequest) -> None:
        """The first worker kept the sequence: its blocks may still go elsewhere."""
        log, ledger, former = request.log, self._ledger, request.log.destination
        if former is None or former in request.refused:
            return
        request.refused.add(former)
        ledger.ended(former, request.attempt_id)
        need, first = self.need(request, self._left(request)), request.members[0]
        hits = self._hits(request)
        destination = ledger.another_destination(need, hits, first, self._clock.now)
        if destination is None:
            return
        request.members.append(destination)
        ledger.expect(destination, request.attempt_id, need)
        log.go_to(destination)
        move = Move(attempt_id=request.attempt_id, destination=Destination(destination, ""))
        self._network.to_worker(first, move)

    def _finish(self, request: OpenRequest) -> None:
        result, now = request.result, self._clock.now
        assert result.first_s is not None
        result.last_s, result.split = now, request.log.moved
        decode_s = now - result.first_s
        self._ledger.answered(request.arrival.tenant, request.num_output, decode_s)
        self._end_attempt(request)
        self._on_end(request)

    def _fail(
        self, request: OpenRequest, worker: WorkerRef, cause: str, *, retryable: bool = True
    ) -> None:
        """The attempt is over on all its workers; another one may begin."""
        for ref in request.members:
            self._network.to_worker(ref, Cancel(attempt_id=request.attempt_id))
        self._end_attempt(request)
        request.avoid.add(worker)
        request.refused.clear()
        if retryable and request.result.attempts < self._max_attempts:
            self.begin(request)
            return
        request.result.failure = cause
        self._on_end(request)

    def _end_attempt(self, request: OpenRequest) -> None:
        del self._open[request.attempt_id]
        for ref in request.members:
            self._ledger.ended(ref, request.attempt_id)

    def _left(self, request: OpenRequest) -> Slo:
        """The targets that remain; none for a first token that has come already."""
        slo, ttft_s = request.result.slo, None
        if slo.ttft_s is not None and request.result.first_s is None:
            ttft_s = max(1e-3, request.arrival.at_s + slo.ttft_s - self._clock.now)
        return Slo(ttft_s, slo.tpot_s)
