"""The input and output of placement: a request's demands, and the workers chosen for it."""

from __future__ import annotations

import enum

import msgspec

from wire.identity import WorkerRef

HOLD_S = 0.2
"""Maximum seconds of prompt work queued at a worker, as long as there is a choice."""
ALWAYS_QUEUED = 2
"""Prompts at a worker, however long: one that it computes, and the next, so that it never runs dry
before it can be told of another."""


class Slo(msgspec.Struct, frozen=True):
    """Targets for a request; None where there is none."""

    ttft_s: float | None = None
    tpot_s: float | None = None


class Split(enum.Enum):
    """Whether prompts are computed on other workers than answers."""

    AUTO = "auto"  # where it pays
    ALWAYS = "always"  # wherever there is a pair
    NEVER = "never"


class RequestSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a request, for its workers."""

    num_prompt_tokens: int
    num_new_tokens: float
    """The answer's length, as expected."""


class PlacementRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The demands of a request on its workers."""

    key: str
    """Names the request: ties are broken by it, so that equal workers share the requests."""
    num_prompt_tokens: int
    num_tokens: int
    """Prompt and answer together, at most."""
    num_new_tokens: float = 128.0
    """The answer's length, as expected."""
    single_token: bool = False
    """One token is wanted: whoever prefills is done, nothing has to travel."""
    avoid: frozenset[WorkerRef] = frozenset()
    """Workers that have failed this request; taken only when there is no other choice."""
    slo: Slo = Slo()
    split: Split = Split.AUTO
    roles_follow: bool = False
    """Whether the workers' roles follow the load: then they decide where it is split."""

    @property
    def work(self) -> RequestSize:
        num_new = 1.0 if self.single_token else max(1.0, self.num_new_tokens)
        return RequestSize(num_prompt_tokens=self.num_prompt_tokens, num_new_tokens=num_new)


class Placement(msgspec.Struct, frozen=True):
    """`first` computes the prompt; without a destination it also writes the answer."""

    first: WorkerRef
    destination: WorkerRef | None
    ttft_s: float = 0.0
    """As predicted, from now on; like the next."""
    tpot_s: float = 0.0
    prompt_s: float = 0.0
    """Computing the prompt's uncached part: what others lose by it."""
    queue_s: float = 0.0
    """Waiting time for the prompts ahead in the worker's queue."""
    num_queued: float = 0.0
    """Prompts there that are not computed yet."""
    queued_steps: float = 0.0
    """For how many steps they are enough."""
    prefill_s: float = 0.0
    """The prompt, the steps' own time and what runs beside it: what a place in line is worth."""
    relief_s: float = 0.0
    """Until enough of what decodes there has ended for the target of its tokens; 0 where that is
    kept, and where it would not be even alone."""

    @property
    def crowded(self) -> bool:
        """Its prompt is better held back in the router: enough prompts are queued at `first`."""
        return is_crowded(self.queue_s, self.num_queued, self.queued_steps)


def is_crowded(queue_s: float, num_queued: float, queued_steps: float) -> bool:
    """Whether a worker has enough prompts queued: so many seconds, prompts and steps of them."""
    # Of less than a step the next one would be partly empty, and take as long.
    return queue_s > HOLD_S and num_queued >= ALWAYS_QUEUED and queued_steps >= 1


class RefusalReason(enum.Enum):
    NO_WORKERS = "no workers"
    TOO_LONG = "too long for every worker"


class Refusal(msgspec.Struct, frozen=True):
    reason: RefusalReason
    detail: str
