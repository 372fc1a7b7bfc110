"""The result of admission: what a request brings from the admission queue to its journey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.config import Roles, RouterConfig
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, PlacementRequest, Slo
from router.requests.request import GenerateRequest
from wire.identity import WorkerRef


@dataclass(frozen=True, slots=True)
class Found:
    """A placement, how much of the prompt each worker had cached then, and the ledger that was
    asked, with its version."""

    placement: Placement
    hits: Hits
    ledger: Ledger
    version: int

    def holds(self, ledger: Ledger) -> bool:
        """Nothing has changed since: the same ledger would find the same."""
        return self.ledger is ledger and self.version == ledger.version


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may be placed. Times are the event loop's."""

    hashes: PromptHashes
    arrived_s: float
    """Time of its arrival at the admission queue, from which its TTFT target counts."""
    found: Found | None = None
    """The best placement at the time of admission; None when there was none."""
    on_first_token: Callable[[float], None] = lambda now: None
    """Called with the time of its first token."""


def placement_request(
    request: GenerateRequest,
    config: RouterConfig,
    ledger: Ledger,
    key: str,
    slo: Slo,
    *,
    num_output: int = 0,
    avoid: frozenset[WorkerRef] = frozenset(),
) -> PlacementRequest:
    """What a request asks for with `num_output` tokens of its answer; `key` breaks ties between
    workers."""
    max_tokens = request.sampling.max_tokens
    expected = ledger.lengths.expected(request.traits.tenant, max_tokens)
    return PlacementRequest(
        key=key,
        num_prompt_tokens=len(request.prompt_tokens) + num_output,
        num_tokens=request.num_tokens,
        num_new_tokens=max(1.0, expected - num_output),
        single_token=max_tokens - num_output == 1,
        avoid=avoid,
        slo=slo,
        split=request.split or config.split,
        roles_follow=config.roles is Roles.FOLLOW,
    )
