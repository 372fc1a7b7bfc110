"""Handoff messages: they move a sequence's KV blocks from a source to a destination worker.

Messages may be lost, repeated or reordered: each names its attempt and the incarnations of both
ends, and every handler is idempotent. All messages of an attempt travel in the session that its
source opened; when the session ends, so does the attempt. Durations are remaining seconds, because
clocks differ.
"""

from __future__ import annotations

import enum
from typing import TypedDict

import msgspec

from wire.identity import AttemptId, WorkerRef
from wire.layout import KvLayout
from wire.sampling import Grammar, SamplingParams, TokenLogprob
from wire.traits import RequestTraits


class RefuseReason(enum.Enum):
    FULL = "full"
    DRAINING = "draining"
    INCOMPATIBLE = "incompatible"
    STALE = "stale"
    TOO_LONG = "too long"


class Ends(TypedDict):
    """The fields shared by all messages of one attempt."""

    attempt_id: AttemptId
    source: WorkerRef
    destination: WorkerRef
    offer_number: int


class HandoffMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all handoff messages: the attempt, and the workers at both ends."""

    attempt_id: AttemptId
    source: WorkerRef
    destination: WorkerRef
    offer_number: int = 0
    """Number given by the source: an attempt may be offered again, and an answer to an old offer is
    not one to the new."""

    @property
    def ends(self) -> Ends:
        """The fields that an answer to this message repeats."""
        return {
            "attempt_id": self.attempt_id,
            "source": self.source,
            "destination": self.destination,
            "offer_number": self.offer_number,
        }


class Offer(HandoffMessage, frozen=True, tag="offer", kw_only=True):
    """Source to destination: prefill of this sequence begins; please reserve blocks for it.

    The transferred KV cache covers exactly `tokens`, in blocks of `layout`, the source's layout
    over all its ranks. `content` names the model and the checksum of its blocks. `router_id` is the
    router that the destination sends tokens to.
    """

    tokens: tuple[int, ...]
    max_tokens: int
    """Maximum length of the whole sequence, in tokens."""
    layout: KvLayout
    content: str
    router_id: str
    deadline_s: float
    traits: RequestTraits = RequestTraits()
    prefix_only: bool = False
    """True if no sequence follows: the blocks are for the destination's prefix cache."""
    grammar: Grammar | None = None
    """Grammar of the answer, which the destination compiles while blocks are transferred."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


class Grant(HandoffMessage, frozen=True, tag="grant", kw_only=True):
    """Destination to source: write to these blocks. Those before `first_missing_block` are cached.

    `blocks` are the destination's, of its `layout`; `blocks[i]` is for the block
    `first_missing_block + i` of the sequence, which begins where a block of the source begins, too.
    `epoch` distinguishes this grant from any other use of the same blocks.
    """

    first_missing_block: int
    blocks: tuple[int, ...]
    epoch: int
    layout: KvLayout


class Refuse(HandoffMessage, frozen=True, tag="refuse", kw_only=True):
    reason: RefuseReason
    detail: str = ""
    retry_after_s: float = 0.0


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Size and timing of a handoff, in seconds by the source's clock.

    Blocks are the destination's. `transfer_s` is the time while writes were in flight, `hidden_s`
    the part of it that overlapped prefill, `exposed_s` the time from the end of prefill until the
    commit was sent. `skipped_blocks` were cached at the destination already.
    """

    num_blocks: int = 0
    skipped_blocks: int = 0
    num_bytes: int = 0
    transfer_s: float = 0.0
    hidden_s: float = 0.0
    exposed_s: float = 0.0


class Commit(HandoffMessage, frozen=True, tag="commit", kw_only=True):
    """Source to destination: every write has completed. `new_tokens` follow the offered ones.

    `sampling`, the tokens and `num_prompt` are the sampler's whole state: sampling depends on the
    seed and the position alone. The KV cache covers all tokens but the new ones.
    """

    epoch: int
    new_tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    logprob: TokenLogprob | None = None
    """Log-probability of the last token, if requested."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of the prompt, if requested; the destination sends them to the router
    again, with the last token."""

    moved: Moved = Moved()
    checksum: int = 0
    """Sum of the granted blocks' checksums over all ranks; see kv_transfer.layout.checksum."""


class Accepted(HandoffMessage, frozen=True, tag="accepted", kw_only=True):
    epoch: int


class Rejected(HandoffMessage, frozen=True, tag="rejected", kw_only=True):
    epoch: int
    reason: str


class Abort(HandoffMessage, frozen=True, tag="abort", kw_only=True):
    """Either end: this attempt is over. Granted blocks are freed only after `Quiesced`."""

    cause: str
    by_source: bool


class Quiesced(HandoffMessage, frozen=True, tag="quiesced", kw_only=True):
    """Source to destination: every write to this attempt's blocks has completed, and none will
    follow.

    Not sent after a failed write, whose end is unknown; the link is torn down instead. `epoch` is
    None if the source has not received a grant.
    """

    epoch: int | None


class Stale(HandoffMessage, frozen=True, tag="stale", kw_only=True):
    """Destination to source: the attempt is not known here, or not any more."""


Handoff = Offer | Grant | Refuse | Commit | Accepted | Rejected | Abort | Quiesced | Stale
