"""One simulated request: its state in the router, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.fleet.attempt_log import AttemptLog
from router.placing.ledger import PromptHashes
from router.placing.placement_request import Placement, Slo
from router.queueing.fair_queue import Waiter
from sim.traces import Arrival
from wire.identity import AttemptId, WorkerRef
from wire.messages import Output


@dataclass(slots=True)
class RequestResult:
    """The outcome of one request, as its client sees it; times are virtual seconds.

    It is complete when `last_s` is set; else it was refused, or it failed.
    """

    arrival: Arrival
    slo: Slo
    first_s: float | None = None
    last_s: float | None = None
    refused_s: float | None = None
    failure: str | None = None
    placement: Placement | None = None
    """The first attempt's."""
    split: bool = False
    """Whether another worker wrote the answer than the one that computed the prompt."""
    cached: int = 0
    """Tokens of the prompt that the worker which computed it had cached."""
    attempts: int = 0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float | None:
        if self.first_s is None or self.last_s is None:
            return None
        return (self.last_s - self.first_s) / max(1, self.arrival.num_new - 1)

    @property
    def good(self) -> bool:
        """Complete, and within both targets."""
        ttft_s, tpot_s, slo = self.ttft_s, self.tpot_s, self.slo
        if ttft_s is None or tpot_s is None:
            return False
        return (slo.ttft_s is None or ttft_s <= slo.ttft_s) and (
            slo.tpot_s is None or tpot_s <= slo.tpot_s
        )

    @property
    def ended(self) -> bool:
        return not (self.last_s is None and self.refused_s is None and self.failure is None)


@dataclass(slots=True)
class OpenRequest:
    """A request that has not ended; `tokens` are its prompt and what was generated so far."""

    key: str
    result: RequestResult
    tokens: list[int]
    hashes: PromptHashes
    waiter: Waiter | None = None
    """Its entry in the admission queue, once it has been judged."""
    avoid: set[WorkerRef] = field(default_factory=set)
    """Workers that have failed it."""
    log: AttemptLog = field(default_factory=AttemptLog)
    members: list[WorkerRef] = field(default_factory=list)
    """Workers that take part in the attempt."""
    refused: set[WorkerRef] = field(default_factory=set)
    """Destinations that refused the attempt."""

    @property
    def arrival(self) -> Arrival:
        return self.result.arrival

    @property
    def attempt_id(self) -> AttemptId:
        return AttemptId(self.key, self.log.attempts - 1)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.arrival.num_prompt

    def take(self, output: Output) -> bool:
        """Append what is new of the output; False when tokens before it are missing."""
        num_known = len(self.tokens) - output.position
        if num_known < 0:
            return False
        self.tokens += output.tokens[num_known:]
        return True
