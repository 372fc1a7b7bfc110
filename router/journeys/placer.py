"""Where one request goes, at any point of its journey, and what the ledger learns from it."""

from __future__ import annotations

from router.answers.token_merger import TokenMerger
from router.config import RouterConfig
from router.fleet.fleet import Fleet
from router.fleet.member import Member
from router.placing.cost_model import Hits
from router.placing.placement_request import Placement, PlacementRequest, Refusal, Slo
from router.queueing.admitted import Admitted, Found, placement_request
from router.requests.request import GenerateRequest
from wire.identity import AttemptId, WorkerRef


class Placer:
    """Asks the ledger for workers; tokens that were generated are prompt to the next attempt.

    `ledger` is that of the model's revision that answers: once it has begun to, no other revision
    can continue.
    """

    def __init__(
        self,
        key: str,
        request: GenerateRequest,
        config: RouterConfig,
        fleet: Fleet,
        admitted: Admitted,
        merger: TokenMerger,
    ) -> None:
        """`key` breaks ties between workers; the tokens of the sequence are those of `merger`."""
        self.ledger = fleet.ledger
        self._key = key
        self._request = request
        self._config = config
        self._admitted = admitted
        self._merger = merger
        self._clock = fleet.clock
        self._first_token_s: float | None = None

    def place(self, avoid: set[WorkerRef]) -> Found | Refusal:
        """The best workers; those at admission, as long as nothing has changed since."""
        found = self._admitted.found
        if found is not None and found.holds(self.ledger):
            return found
        hits = self._hits()
        placement = self.ledger.place(self._placement_request(avoid), hits, self._now)
        return placement if isinstance(placement, Refusal) else self._found(placement, hits)

    def place_at(self, member: Member) -> Found:
        """This worker alone, which has the prompt."""
        self.ledger = member.ledger
        return self._found(Placement(member.ref, None), self._hits())

    def another_destination(self, first: WorkerRef, avoid: set[WorkerRef]) -> WorkerRef | None:
        """Another worker that could continue what `first` has computed."""
        request = self._placement_request(avoid)
        return self.ledger.another_destination(request, self._hits(), first, self._now)

    def enter(self, attempt_id: AttemptId, found: Found, avoid: set[WorkerRef]) -> None:
        """Count the attempt on its workers from now on."""
        request = self._placement_request(avoid)
        self.ledger.placed(attempt_id, found.placement, request, found.hits, self._now)

    def expect(self, attempt_id: AttemptId, destination: WorkerRef, avoid: set[WorkerRef]) -> None:
        """Count the attempt on this destination, too."""
        self.ledger.expect(destination, attempt_id, self._placement_request(avoid))

    def on_output(self, *, tell_queue: bool) -> None:
        """Called for each output; the admission queue learns when the first one came."""
        if self._first_token_s is None:
            self._first_token_s = self._now
            if tell_queue:
                self._admitted.on_first_token(self._first_token_s)

    def answered(self, num_tokens: int) -> None:
        """The answer is complete: the ledger learns its length and how long it took."""
        assert self._first_token_s is not None
        decode_s = self._now - self._first_token_s
        self.ledger.answered(self._request.traits.tenant, num_tokens, decode_s)

    def _found(self, placement: Placement, hits: Hits) -> Found:
        return Found(placement, hits, self.ledger, self.ledger.version)

    def _hits(self) -> Hits:
        return self.ledger.hits(self._merger.sequence, self._admitted.hashes)

    def _placement_request(self, avoid: set[WorkerRef]) -> PlacementRequest:
        return placement_request(
            self._request,
            self._config,
            self.ledger,
            self._key,
            self._slo(),
            num_output=self._merger.num_output,
            avoid=frozenset(avoid),
        )

    def _slo(self) -> Slo:
        """The rest of its targets; there is none for a first token that has come."""
        ttft_s = self._request.ttft_target_s
        if ttft_s is not None:
            waited_s = self._now - self._admitted.arrived_s
            ttft_s = max(1e-3, ttft_s - waited_s) if self._first_token_s is None else None
        return Slo(ttft_s, self._request.tpot_target_s)

    @property
    def _now(self) -> float:
        return self._clock.now()
