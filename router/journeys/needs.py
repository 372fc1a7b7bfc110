"""What one request asks of the fleet, at any point of its journey."""

from __future__ import annotations

from router.answers.token_merger import TokenMerger
from router.config import RouterConfig
from router.fleet.running_clock import RunningClock
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger
from router.placing.placement_request import Placement, PlacementRequest, Refusal, Slo
from router.queueing.admitted import Admitted, placement_request
from router.requests.request import GenerateRequest
from wire.identity import WorkerRef


class Needs:
    """Changes with every token: what is generated is prompt to the next attempt.

    It also remembers when the first token came, and tells the ledger what became of the request.
    `ledger` is that of the revision whose workers are asked.
    """

    def __init__(
        self,
        key: str,
        request: GenerateRequest,
        config: RouterConfig,
        ledger: Ledger,
        entry: Admitted,
        merger: TokenMerger,
        clock: RunningClock,
    ) -> None:
        self._key = key
        self._request = request
        self._config = config
        self.ledger = ledger
        self._entry = entry
        self._merger = merger
        self._clock = clock
        self._first_s: float | None = None

    def place(self, avoid: set[WorkerRef]) -> Placement | Refusal:
        """What the admission queue has found holds while nothing has changed since."""
        found = self._entry.found
        if found is not None and found.holds(self.ledger):
            return found.placement
        return self.ledger.place(self.need(avoid), self.hits(), self._now)

    def another_destination(self, first: WorkerRef, avoid: set[WorkerRef]) -> WorkerRef | None:
        return self.ledger.another_destination(self.need(avoid), self.hits(), first, self._now)

    def hits(self) -> Hits:
        return self.ledger.hits(self._merger.sequence, self._entry.hashes)

    def need(self, avoid: set[WorkerRef]) -> PlacementRequest:
        return placement_request(
            self._request,
            self._config,
            self.ledger,
            self._key,
            self._slo(),
            num_output=self._merger.num_output,
            avoid=frozenset(avoid),
        )

    def came(self, *, tell_lobby: bool) -> None:
        """Tokens came, as they do again and again; the admission queue learns from when the
        first did."""
        if self._first_s is None:
            self._first_s = self._now
            if tell_lobby:
                self._entry.on_first_token(self._first_s)

    def answered(self, num_tokens: int) -> None:
        """The answer is complete: how long it is, and how long it took, is worth knowing."""
        assert self._first_s is not None
        decode_s = self._now - self._first_s
        self.ledger.answered(self._request.traits.tenant, num_tokens, decode_s)

    def _slo(self) -> Slo:
        """What is left of its targets; none for a first token that is out already."""
        ttft_s = self._request.ttft_target_s
        if ttft_s is not None:
            waited_s = self._now - self._entry.arrived_s
            ttft_s = max(1e-3, ttft_s - waited_s) if self._first_s is None else None
        return Slo(ttft_s, self._request.tpot_target_s)

    @property
    def _now(self) -> float:
        return self._clock.now()
