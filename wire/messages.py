"""Messages between routers and workers, and the union of all messages that a session carries."""

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
    """A worker's properties, as routers and peers need them before they call it."""

    ref: WorkerRef
    role: Role
    address: str
    """host:port of the worker's internal RPC."""
    model: str
    model_hash: str
    layout: KvLayout
    """Layout of its KV blocks over all ranks."""
    content: str
    """The model and the checksum of its blocks; workers exchange blocks only if it is equal."""
    num_blocks: int
    max_model_len: int
    """Longest sequence: the model's maximum, or a lower setting; the block pool may hold less."""
    policies: dict[Role, PolicyTraits]
    """Rules of its scheduling policy in either role."""
    transport: str
    """Name of the transport; only equal transports connect."""
    process: ProcessRef
    """Process of its first rank."""
    on_gpu: bool = False
    """Whether its KV cache lies in a GPU's memory."""
    device: str = ""
    """Kind of its device, such as "NVIDIA H200"; steps take about as long on devices of one
    kind."""
    metrics_address: str | None = None
    """host:port of its /metrics and /health; None without them."""
    tokenizer: str | None = None
    """Hash of its tokenizer, see runtime.tokenizer_hash; None if it is not known."""
    started_at: float = 0.0
    """Start of its process, in seconds since 1970 by its own clock: of two revisions of a model,
    the one whose workers started later is newer."""


class Hello(msgspec.Struct, frozen=True, tag="hello", kw_only=True):
    """First message of the caller. `worker` and `layout` are set if the caller is a worker.

    A worker that calls thereby states that no write of an earlier session's link is in flight.
    """

    caller_id: str
    worker: WorkerRef | None = None
    layout: KvLayout | None = None
    """Layout of the blocks that it will write."""
    processes: tuple[ProcessRef, ...] = ()
    """Processes of all its ranks, each of which writes by itself."""
    address: str = ""
    """host:port at which the calling worker can be called back."""
    protocol_version: int = PROTOCOL_VERSION


class Welcome(msgspec.Struct, frozen=True, tag="welcome", kw_only=True):
    """First message of the called worker."""

    card: WorkerCard
    admissions: tuple[bytes, ...] = ()
    """For a calling worker: data with which its ranks' transports connect to the called worker's
    pools, one item per pair of ranks, in the order of kv_transfer.layout.head_routes.strands."""


class Destination(msgspec.Struct, frozen=True):
    """The decode worker that receives a prefilled sequence."""

    ref: WorkerRef
    address: str


class Submit(msgspec.Struct, frozen=True, tag="submit", kw_only=True):
    """Router to worker: serve this sequence; hand it over to `destination` after prefill.

    Without a destination the worker decodes to the end. `tokens` are the prompt (`num_prompt`
    tokens) and, after a failover, the tokens that the client has already received.
    """

    attempt_id: AttemptId
    tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    destination: Destination | None = None
    traits: RequestTraits = RequestTraits()
    deadline_s: float | None = None
    number: int = 0
    """Number of the router's submissions to this worker, from 1; see `Report.seen_submits`."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel", kw_only=True):
    """Router to worker: abort this attempt. Unknown attempts are ignored."""

    attempt_id: AttemptId


class Move(msgspec.Struct, frozen=True, tag="move", kw_only=True):
    """Router to worker: hand this decoding sequence over to another worker.

    Nothing is recomputed: all blocks are transferred. The worker answers Released, or Kept if the
    handoff fails; it ignores attempts that are not decoding there.
    """

    attempt_id: AttemptId
    destination: Destination


class SetRole(msgspec.Struct, frozen=True, tag="set_role", kw_only=True):
    """Router to worker: run in this role from the next step on. Its next report tells the role."""

    role: Role


class CopyPrefix(msgspec.Struct, frozen=True, tag="share", kw_only=True):
    """Router to worker: copy the cached blocks of these tokens to another worker's prefix cache.

    The other worker answers Handed and this one Released, or Kept if the copy fails.
    """

    attempt_id: AttemptId
    """Attempt of the copy itself; the request that needs the prefix has another."""
    tokens: tuple[int, ...]
    destination: Destination
    traits: RequestTraits = RequestTraits()


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New tokens of one sequence. `position` is that of the first of them, counting the prompt.

    The first output after a handoff repeats the token that the source generated: two streams may
    overtake each other, so the router drops tokens it already has, and never meets a gap.
    `logprobs`, if requested, has one entry per token.
    """

    attempt_id: AttemptId
    position: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop_token: int | None = None
    """Id of the token that ended the sequence, if one did."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of the prompt's tokens but the first, if requested; sent with the answer's
    first token."""


class StepOutputs(msgspec.Struct, frozen=True, tag="step", kw_only=True):
    """Worker to router: the outputs of one engine step for all of that router's sequences."""

    outputs: tuple[Output, ...]


class Prefilled(msgspec.Struct, frozen=True, tag="prefilled", kw_only=True):
    """Worker to router, beside the first token: durations of queueing and prefill, in seconds.

    `cached_tokens` is the number of prompt tokens found in the prefill worker's prefix cache.
    """

    attempt_id: AttemptId
    queue_s: float
    prefill_s: float
    cached_tokens: int


class Handed(msgspec.Struct, frozen=True, tag="handed", kw_only=True):
    """Destination to router, before its first token: the sequence was handed over, and runs
    here."""

    attempt_id: AttemptId
    source: WorkerRef
    moved: Moved


class Released(msgspec.Struct, frozen=True, tag="released", kw_only=True):
    """Source to router: the destination has accepted the sequence, and the source has freed it."""

    attempt_id: AttemptId


class Kept(msgspec.Struct, frozen=True, tag="kept", kw_only=True):
    """Source to router: the handoff failed; this worker goes on decoding the sequence."""

    attempt_id: AttemptId
    cause: str


class Failed(msgspec.Struct, frozen=True, tag="failed", kw_only=True):
    """Worker to router: this attempt ended without a result.

    `retryable` is true if another worker may succeed.
    """

    attempt_id: AttemptId
    stage: str
    cause: str
    retryable: bool = True
    invalid: bool = False
    """True if the request itself is invalid, so that no worker can serve it."""


class WantSnapshot(msgspec.Struct, frozen=True, tag="want_snapshot"):
    """Router to worker: send all cached blocks as a snapshot."""


class Join(msgspec.Struct, frozen=True, tag="join", kw_only=True):
    """Worker to router's fleet port: the worker's card, repeated as a heartbeat."""

    card: WorkerCard


class Joined(msgspec.Struct, frozen=True, tag="joined", kw_only=True):
    """Router to worker: answer to Join."""

    router_id: str
    refused: str | None = None
    """Reason why the router refuses the worker, and what to do; None if it accepts."""


Message = (
    Hello
    | Welcome
    | Submit
    | Cancel
    | Move
    | SetRole
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
