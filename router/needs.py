"""What one request asks of the fleet, at any point of its journey."""

from __future__ import annotations

from router.config import RouterConfig
from router.merge import TokenMerger
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger
from router.placing.need import Need, Placement, Refusal, Slo
from router.queueing.entry import Entry
from router.requests import GenerateRequest
from router.running_clock import RunningClock
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
        entry: Entry,
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
        """What the lobby has found holds while nothing has changed since."""
        judged_best = self._entry.placement(self.ledger)
        if judged_best is not None:
            return judged_best
        return self.ledger.place(self.need(avoid), self.hits(), self._now)

    def another_destination(self, first: WorkerRef, avoid: set[WorkerRef]) -> WorkerRef | None:
        return self.ledger.another_destination(self.need(avoid), self.hits(), first, self._now)

    def hits(self) -> Hits:
        return self.ledger.hits(self._merger.sequence, self._entry.hashes)

    def need(self, avoid: set[WorkerRef]) -> Need:
        return need_of(
            self._request,
            self._config,
            self.ledger,
            self._key,
            self._slo(),
            num_output=self._merger.num_output,
            avoid=frozenset(avoid),
        )

    def came(self, *, tell_lobby: bool) -> None:
        """Tokens came, as they do again and again; the lobby learns from when the first did."""
        if self._first_s is None:
            self._first_s = self._now
            if tell_lobby:
                self._entry.came(self._first_s)

    def answered(self, num_tokens: int) -> None:
        """The answer is complete: how long it is, and how long it took, is worth knowing."""
        assert self._first_s is not None
        decode_s = self._now - self._first_s
        self.ledger.answered(self._request.tenant, num_tokens, decode_s)

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


def need_of(
    request: GenerateRequest,
    config: RouterConfig,
    ledger: Ledger,
    key: str,
    slo: Slo,
    *,
    num_output: int = 0,
    avoid: frozenset[WorkerRef] = frozenset(),
) -> Need:
    """Of a request with `num_output` tokens of its answer; `key` breaks ties between workers."""
    max_tokens = request.sampling.max_tokens
    return Need(
        key=key,
        num_prompt_tokens=len(request.prompt_tokens) + num_output,
        num_tokens=request.num_tokens,
        num_new_tokens=max(1.0, ledger.lengths.expected(request.tenant, max_tokens) - num_output),
        single_token=max_tokens - num_output == 1,
        avoid=avoid,
        slo=slo,
        split=request.split or config.split,
    )
