"""The messages by which a sequence's KV blocks change hands, source to destination and back.

Messages may be lost, repeated or reordered: each names its attempt and the incarnations of both
ends, and every handler is idempotent. All messages of an attempt go over the session that its
source opened; when that ends, so does the attempt. Durations are remaining seconds, because clocks
differ.
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
    """What every message of one attempt repeats."""

    attempt_id: AttemptId
    source: WorkerRef
    destination: WorkerRef
    offer_number: int


class HandoffMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every message of a handoff names: whose blocks, and who is to have them."""

    attempt_id: AttemptId
    source: WorkerRef
    destination: WorkerRef
    offer_number: int = 0
    """The source's own: an attempt may be offered again, and old answers are not for the new
    offer."""

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
    """Source: I start computing this sequence; will you take it?

    The KV cache that travels covers exactly `tokens`, in blocks of `layout`, which is that of all
    ranks of a worker together, as in a grant. `content` names the model, and how its blocks are
    checked. `router_id` is where the destination's tokens go.
    """

    tokens: tuple[int, ...]
    max_tokens: int
    """How long the whole sequence can become."""
    layout: KvLayout
    content: str
    router_id: str
    deadline_s: float
    traits: RequestTraits = RequestTraits()
    prefix_only: bool = False
    """There is no sequence to go on with: the blocks are for the destination's prefix cache."""
    grammar: Grammar | None = None
    """That the answer must follow: the destination compiles it while the blocks travel."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


class Grant(HandoffMessage, frozen=True, tag="grant", kw_only=True):
    """Destination: write to these pages; I already hold the blocks before `first_missing_block`.

    Pages are blocks of `layout`, the destination's; `pages[i]` is for its block
    `first_missing_block + i`, which begins where a block of the source begins, too. `epoch`
    distinguishes this grant from any other use of the same pages.
    """

    first_missing_block: int
    pages: tuple[int, ...]
    epoch: int
    layout: KvLayout


class Refuse(HandoffMessage, frozen=True, tag="refuse", kw_only=True):
    reason: RefuseReason
    detail: str = ""
    retry_after_s: float = 0.0


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a handoff moved, and what that took, in seconds by the source's clock.

    Blocks are the destination's. `transfer_s` is the time during which writes were under way,
    `hidden_s` the part of it while prefill still computed, `exposed_s` the time from the end of
    prefill until the commit left. `skipped_blocks` the destination had already.
    """

    num_blocks: int = 0
    skipped_blocks: int = 0
    num_bytes: int = 0
    transfer_s: float = 0.0
    hidden_s: float = 0.0
    exposed_s: float = 0.0


class Commit(HandoffMessage, frozen=True, tag="commit", kw_only=True):
    """Source: every write has completed. `new_tokens` follow those that were offered.

    The sampler's whole state is in `sampling`, the tokens and `num_prompt`: draws depend on the
    seed and the position alone. The cache covers all tokens but the new ones.
    """

    epoch: int
    new_tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    logprob: TokenLogprob | None = None
    """Of the last token, where the request asked for it."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """The source has them: with the last token they go to the router once more."""

    moved: Moved = Moved()
    checksum: int = 0
    """Sum of the checksums of the granted pages, on all ranks; see kv_transfer.layout.checksum."""


class Accepted(HandoffMessage, frozen=True, tag="accepted", kw_only=True):
    epoch: int


class Rejected(HandoffMessage, frozen=True, tag="rejected", kw_only=True):
    epoch: int
    reason: str


class Abort(HandoffMessage, frozen=True, tag="abort", kw_only=True):
    """Either end: this attempt is over for me. Pages return only after `Quiesced`."""

    cause: str
    by_source: bool


class Quiesced(HandoffMessage, frozen=True, tag="quiesced", kw_only=True):
    """Source: every write of mine into this attempt's pages has completed, and none will follow.

    Never said of writes that failed: nobody knows when those end, and the link is torn down.
    `epoch` is None when the source never saw a grant.
    """

    epoch: int | None


class Stale(HandoffMessage, frozen=True, tag="stale", kw_only=True):
    """Destination: I know nothing of this attempt, or not any more."""


Handoff = Offer | Grant | Refuse | Commit | Accepted | Rejected | Abort | Quiesced | Stale
