"""What a worker reports to routers: its load and costs, its links, its cached blocks."""

from __future__ import annotations

import enum

import msgspec

from wire.identity import WorkerRef


class WorkerState(enum.Enum):
    READY = "ready"
    DRAINING = "draining"


class StepCosts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a worker's steps take, in seconds for each unit of work, as learned from its own.

    None for a kind of work that it has hardly done.
    """

    step_s: float | None
    """A step by itself."""
    sequence_s: float | None
    """Each decoding sequence in it."""
    context_token_s: float | None
    """Each cached token that those sequences read."""
    prompt_token_s: float | None
    prompt_pair_s: float | None
    """Each pair of a prompt token and one that it sees."""


class WorkerTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker has done since it started."""

    num_steps: int = 0
    step_s: float = 0.0
    """During which steps were computed."""
    prefilled_tokens: int = 0
    """Prompt tokens that were computed, not found, of sequences that came to their first token."""
    generated_tokens: int = 0
    found_blocks: int = 0
    """Blocks that sequences found in the cache."""
    found_host_blocks: int = 0
    """The same for the tier in the host's memory."""
    offers: dict[str, int] = {}
    """Sequences that others offered to hand over, by the answer: "granted", or why not."""


class Report(msgspec.Struct, frozen=True, tag="report", kw_only=True, omit_defaults=True):
    """Worker to router, at least once a second and after every change of state."""

    state: WorkerState
    num_running: int
    num_waiting: int
    waiting_tokens: int
    """Prompt tokens that still have to be computed, waiting and running sequences together."""
    free_blocks: int
    num_blocks: int
    cached_blocks: int = 0
    num_host_blocks: int = 0
    """Of the host memory behind the cache; 0 where there is none."""
    cached_host_blocks: int = 0
    num_handoffs: int = 0
    """Handoffs under way, either end."""
    num_decoding: int = 0
    context_tokens: int = 0
    """Cached tokens of the sequences that decode."""
    waiting_prompts: int = 0
    """Sequences whose prompts are still to be computed, in whole or in part."""
    waiting_pairs: int = 0
    """Pairs of a prompt token that is still to be computed and one that it sees."""
    heard: dict[str, int] = {}
    """For each router the highest `Submit.number` that this report knows of."""
    costs: StepCosts | None = None
    """None until enough steps were seen."""
    step_target_s: float | None = None
    """Beside decoding sequences, steps have as much of prompts as fits into this; None: a chunk."""
    totals: WorkerTotals = WorkerTotals()


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What arrived over a link since it was made, the writes that measured it included."""

    num_writes: int
    num_bytes: int
    num_descriptors: int
    """Pieces that the fabric was given; neighbours are one."""
    post_s: float
    """Spent on handing writes to the fabric, and copying where the processor does that."""
    fabric_s: float
    """From the start of each write to its end, added up."""


class LinkReport(msgspec.Struct, frozen=True, tag="link", kw_only=True):
    """Worker to router: what its link to another worker gave when it was made.

    Where traffic is counted, it is told again as that grows, at most once a second.
    """

    destination: WorkerRef
    latency_s: float
    bytes_per_s: float
    transport: str
    kind: str
    """Such as "shared memory"; see kv_transfer.transports.link_kind."""
    slow: bool = False
    """True when it gives far less than its kind should."""
    traffic: Traffic | None = None
    """None where it is not counted."""


class CacheEvents(msgspec.Struct, frozen=True, tag="cache_events", kw_only=True):
    """Blocks that entered and left a worker's prefix cache since the event before.

    `number` counts up by one; a gap means that the receiver must ask for a snapshot. A message
    with `snapshot` replaces all that was known.
    """

    number: int
    stored: tuple[bytes, ...] = ()
    removed: tuple[bytes, ...] = ()
    host_stored: tuple[bytes, ...] = ()
    """The same for the tier in the host's memory, where there is one."""
    host_removed: tuple[bytes, ...] = ()
    snapshot: bool = False
