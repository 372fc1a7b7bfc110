"""A worker's reports to routers: load, step costs, links and cached blocks."""

from __future__ import annotations

import enum

import msgspec

from wire.identity import Role, WorkerRef


class WorkerState(enum.Enum):
    READY = "ready"
    DRAINING = "draining"


class StepCosts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Measured durations of a worker's steps, in seconds per unit of work.

    None for a kind of work that the worker has hardly done.
    """

    step_s: float | None
    """Fixed part of each step."""
    sequence_s: float | None
    """Per decoding sequence in the step."""
    context_token_s: float | None
    """Per cached token that the decoding sequences read."""
    prompt_token_s: float | None
    prompt_pair_s: float | None
    """Per pair of a prompt token and a token that it attends to."""


class WorkerTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's counters since its start."""

    num_steps: int = 0
    step_s: float = 0.0
    """Time spent in steps."""
    prefilled_tokens: int = 0
    """Prompt tokens that were computed, not found in the cache, of sequences that reached their
    first token."""
    generated_tokens: int = 0
    found_blocks: int = 0
    """Blocks found in the prefix cache."""
    found_host_blocks: int = 0
    """Blocks found in the host memory tier."""
    offers: dict[str, int] = {}
    """Offers of handoffs to this worker, by the answer: "granted", or the reason for refusal."""


class Report(msgspec.Struct, frozen=True, tag="report", kw_only=True, omit_defaults=True):
    """Worker to router, at least once a second and after every change of state."""

    state: WorkerState
    num_running: int
    num_waiting: int
    role: Role | None = None
    """The role in which it runs now; None: that of its card."""
    waiting_tokens: int
    """Prompt tokens still to be computed, of waiting and running sequences."""
    free_blocks: int
    num_blocks: int
    cached_blocks: int = 0
    num_host_blocks: int = 0
    """Blocks of the host memory tier; 0 without one."""
    cached_host_blocks: int = 0
    num_handoffs: int = 0
    """Handoffs in progress, at either end."""
    num_decoding: int = 0
    context_tokens: int = 0
    """Cached tokens of the decoding sequences."""
    waiting_prompts: int = 0
    """Sequences whose prompts are not completely computed."""
    waiting_pairs: int = 0
    """Pairs of a prompt token still to be computed and a token that it attends to."""
    seen_submits: dict[str, int] = {}
    """Highest `Submit.number` received from each router when the report was made."""
    costs: StepCosts | None = None
    """Measured step costs; None until enough steps were measured."""
    step_target_s: float | None = None
    """Target duration of a step with decoding sequences, which limits its prompt tokens; None:
    limited by a chunk alone."""
    totals: WorkerTotals = WorkerTotals()


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic over a link since it was made, including the writes that measured it."""

    num_writes: int
    num_bytes: int
    num_descriptors: int
    """Number of descriptors given to the fabric; contiguous parts are merged into one."""
    post_s: float
    """Time to post writes to the fabric, including copies by the CPU."""
    fabric_s: float
    """Duration of each write from start to end, summed."""


class LinkReport(msgspec.Struct, frozen=True, tag="link", kw_only=True):
    """Worker to router: measurements of its link to another worker.

    Sent again as counted traffic grows, at most once a second.
    """

    destination: WorkerRef
    latency_s: float
    bytes_per_s: float
    transport: str
    kind: str
    """Kind of link, such as "shared memory"; see kv_transfer.transports.link_kind."""
    slow: bool = False
    """True if the link is far slower than its kind should be."""
    traffic: Traffic | None = None
    """Traffic counters; None if the transport does not count."""


class CacheEvents(msgspec.Struct, frozen=True, tag="cache_events", kw_only=True):
    """Blocks stored in and removed from a worker's prefix cache since the previous event.

    `number` increments by one; after a gap the receiver must ask for a snapshot. A message with
    `snapshot` replaces all earlier events.
    """

    number: int
    stored: tuple[bytes, ...] = ()
    removed: tuple[bytes, ...] = ()
    host_stored: tuple[bytes, ...] = ()
    """Blocks stored in the host memory tier, if there is one."""
    host_removed: tuple[bytes, ...] = ()
    snapshot: bool = False
