"""What a request brings from the admission queue to its journey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.config import RouterConfig
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, PlacementRequest, Slo
from router.requests.request import GenerateRequest
from wire.identity import WorkerRef


@dataclass(frozen=True, slots=True)
class Admitted:
    """Let in. Times are the event loop's."""

    hashes: PromptHashes
    arrived_s: float
    """When it came to the admission queue; its target for the first token counts from then."""
    found: Placement | None = None
    judged_by: Ledger | None = None
    """Who found that."""
    version: int = 0
    """Of this ledger, when that was the best."""
    came: Callable[[float], None] = lambda now: None
    """To be told when its first token has come."""

    def placement(self, ledger: Ledger) -> Placement | None:
        """Where it was judged to be served best, if nothing has changed since."""
        same = self.judged_by is ledger and self.version == ledger.version
        return self.found if same else None


def need_of(
    request: GenerateRequest,
    config: RouterConfig,
    ledger: Ledger,
    key: str,
    slo: Slo,
    *,
    num_output: int = 0,
    avoid: frozenset[WorkerRef] = frozenset(),
) -> PlacementRequest:
    """Of a request with `num_output` tokens of its answer; `key` breaks ties between workers."""
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
    )
