"""The messages between routers and workers, and the union of all that a session carries."""

from __future__ import annotations

import enum

import msgspec

from wire.handoff import (
    Abort,
    Accepted,
    Commit,
    Grant,
    Moved,
    Offer,
    Quiesced,
    Refuse,
    Rejected,
    Stale,
)
from wire.identity import PROTOCOL_VERSION, AttemptId, ProcessRef, Role, WorkerRef
from wire.layout import KvLayout
from wire.policy_traits import PolicyTraits
from wire.reports import CacheEvents, LinkReport, Report
from wire.sampling import SamplingParams, TokenLogprob
from wire.traits import RequestTraits


class WorkerCard(msgspec.Struct, frozen=True, kw_only=True):
    """All that others must know of a worker before they speak to it."""

    ref: WorkerRef
    role: Role
    address: str
    """host:port of the worker's internal RPC."""
    model: str
    model_hash: str
    layout: KvLayout
    """Of all its ranks together."""
    content: str
    """Names the model, and how its blocks are checked; workers exchange blocks of equal content."""
    num_blocks: int
    max_model_len: int
    """Of the model, or less as the worker is set; its blocks may hold less."""
    policy: PolicyTraits
    """How it schedules."""
    transport: str
    """Name of the transport; only equal ones can be connected."""
    process: ProcessRef
    """That of its first rank."""
    metrics_address: str | None = None
    """host:port of its /metrics and /health, where it has them."""
    tokenizer: str | None = None
    """Equal for equal tokenizers, see runtime.tokenizer_hash; None where it is not known."""
    started_at: float = 0.0
    """When its process started, in seconds since 1970 by its own clock: of two revisions of a
    model, the one whose workers started later is newer."""


class Hello(msgspec.Struct, frozen=True, tag="hello", kw_only=True):
    """First frame of whoever opens a session. `worker` and `layout` are set when a worker calls.

    By calling, a worker says that no write of an earlier session's link is under way any more.
    """

    caller_id: str
    worker: WorkerRef | None = None
    layout: KvLayout | None = None
    """Of the blocks that it will write."""
    processes: tuple[ProcessRef, ...] = ()
    """Of all its ranks: each writes by itself."""
    address: str = ""
    """Where the calling worker can be called back."""
    protocol_version: int = PROTOCOL_VERSION


class Welcome(msgspec.Struct, frozen=True, tag="welcome", kw_only=True):
    """First frame of the worker that was called."""

    card: WorkerCard
    admissions: tuple[bytes, ...] = ()
    """For a peer worker: with what its ranks' transports connect to the called worker's pools, one
    for each pair of ranks, in the order of kv_transfer.layout.head_routes.strands."""


class Destination(msgspec.Struct, frozen=True):
    """Where a prefilled sequence goes."""

    ref: WorkerRef
    address: str


class Submit(msgspec.Struct, frozen=True, tag="submit", kw_only=True):
    """Router to worker: serve this sequence; hand it to `destination` once prefilled.

    Without a destination the worker itself decodes to the end. `tokens` are the prompt
    (`num_prompt` of them) and, after a failover, the tokens that the client already has.
    """

    attempt_id: AttemptId
    tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    destination: Destination | None = None
    traits: RequestTraits = RequestTraits()
    deadline_s: float | None = None
    number: int = 0
    """Counts a router's submissions to one worker from 1; see `Report.heard`."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel", kw_only=True):
    """Router to worker: nobody waits for this attempt any more. Unknown attempts are ignored."""

    attempt_id: AttemptId


class Move(msgspec.Struct, frozen=True, tag="move", kw_only=True):
    """Router to worker: hand this sequence, which decodes with you, to another worker.

    Nothing is recomputed: all blocks travel. Answered by Released, or by Kept when nothing comes
    of it; ignored for an attempt that does not decode there.
    """

    attempt_id: AttemptId
    destination: Destination


class CopyPrefix(msgspec.Struct, frozen=True, tag="share", kw_only=True):
    """Router to worker: copy what you have cached of these tokens to another worker's cache.

    The other worker answers Handed, this one Released; or Kept, when nothing comes of it.
    """

    attempt_id: AttemptId
    """Of this copy alone: the request that wants it has another."""
    tokens: tuple[int, ...]
    destination: Destination
    traits: RequestTraits = RequestTraits()


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New tokens of one sequence. `position` is that of the first of them, prompt included.

    The first output after a handoff repeats the token that the source generated: two streams may
    overtake each other, so the router drops what it has and never meets a gap. `logprobs`, where
    asked for, has one entry for each token.
    """

    attempt_id: AttemptId
    position: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop_token: int | None = None
    """The token id that ended the sequence, when one did."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt's tokens but the first, where asked for, with the first token of the answer."""


class StepOutputs(msgspec.Struct, frozen=True, tag="step", kw_only=True):
    """Worker to router: what one engine step made for all of that router's sequences."""

    outputs: tuple[Output, ...]


class Prefilled(msgspec.Struct, frozen=True, tag="prefilled", kw_only=True):
    """Worker to router, beside the first token: what the first stages took, in seconds.

    `cached_tokens` were in the prefix cache of the worker that prefilled.
    """

    attempt_id: AttemptId
    queue_s: float
    prefill_s: float
    cached_tokens: int


class Handed(msgspec.Struct, frozen=True, tag="handed", kw_only=True):
    """Destination to router, before its first token: the sequence runs here now."""

    attempt_id: AttemptId
    source: WorkerRef
    moved: Moved


class Released(msgspec.Struct, frozen=True, tag="released", kw_only=True):
    """Source to router: the destination has accepted the sequence; it is not mine any more."""

    attempt_id: AttemptId


class Kept(msgspec.Struct, frozen=True, tag="kept", kw_only=True):
    """Source to router: the handoff did not happen; this worker decodes the sequence itself."""

    attempt_id: AttemptId
    cause: str


class Failed(msgspec.Struct, frozen=True, tag="failed", kw_only=True):
    """Worker to router: this attempt ended without result; says where and why.

    `retryable` is true when another worker may well succeed.
    """

    attempt_id: AttemptId
    stage: str
    cause: str
    retryable: bool = True
    invalid: bool = False
    """True when the request itself is to blame: then no worker can serve it."""


class WantSnapshot(msgspec.Struct, frozen=True, tag="want_snapshot"):
    """Router to worker: send your whole cache index."""


class Join(msgspec.Struct, frozen=True, tag="join", kw_only=True):
    """Worker to router's fleet port, repeated as a heartbeat: I am here, call me."""

    card: WorkerCard


class Joined(msgspec.Struct, frozen=True, tag="joined", kw_only=True):
    """Router to worker: the announcement was heard."""

    router_id: str
    refused: str | None = None
    """Why this router does not take the worker, and what to do; None when it takes it."""


Message = (
    Hello
    | Welcome
    | Submit
    | Cancel
    | Move
    | CopyPrefix
    | StepOutputs
    | Prefilled
    | Handed
    | Released
    | Kept
    | Failed
    | Report
    | LinkReport
    | CacheEvents
    | WantSnapshot
    | Join
    | Joined
    | Offer
    | Grant
    | Refuse
    | Commit
    | Accepted
    | Rejected
    | Abort
    | Quiesced
    | Stale
)
