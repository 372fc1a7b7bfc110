"""The messages by which a sequence's KV blocks change hands, source to destination and back.

Messages may be lost, repeated or reordered: each names its leg and the incarnations of both ends,
and every handler is idempotent. Durations are remaining seconds, because clocks differ.
"""

from __future__ import annotations

import enum
from typing import TypedDict

import msgspec

from wire.identity import Leg, WorkerRef
from wire.sampling import SamplingParams, TokenLogprob


class RefuseReason(enum.Enum):
    FULL = "full"
    DRAINING = "draining"
    INCOMPATIBLE = "incompatible"
    STALE = "stale"
    TOO_LONG = "too long"


class Ends(TypedDict):
    """What every message of one leg repeats."""

    leg: Leg
    source: WorkerRef
    destination: WorkerRef


class HandoffMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every message of a handoff names: whose blocks, and who is to have them."""

    leg: Leg
    source: WorkerRef
    destination: WorkerRef

    @property
    def ends(self) -> Ends:
        """The fields that an answer to this message repeats."""
        return {"leg": self.leg, "source": self.source, "destination": self.destination}


class Offer(HandoffMessage, frozen=True, tag="offer", kw_only=True):
    """Source: I start computing this sequence; will you take it?

    `block_hashes` name the full blocks of its first `num_tokens` tokens; the KV cache that
    travels covers exactly those tokens. `router_id` is where the destination's tokens go.
    """

    block_hashes: tuple[bytes, ...]
    num_tokens: int
    max_tokens: int
    """How long the whole sequence can become."""
    fingerprint: str
    router_id: str
    deadline_s: float
    cache_salt: bytes = b""


class Grant(HandoffMessage, frozen=True, tag="grant", kw_only=True):
    """Destination: write to these pages; I already hold the blocks before `first_missing_block`.

    `pages[i]` is for block `first_missing_block + i`. `epoch` distinguishes this grant from any
    other use of the same pages.
    """

    first_missing_block: int
    pages: tuple[int, ...]
    epoch: int


class Refuse(HandoffMessage, frozen=True, tag="refuse", kw_only=True):
    reason: RefuseReason
    detail: str = ""
    retry_after_s: float = 0.0


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a handoff moved, and what that took, in seconds by the source's clock.

    `transfer_s` is the time during which writes were under way, `hidden_s` the part of it while
    prefill still computed, `exposed_s` the time from the end of prefill until the commit left.
    `skipped_blocks` the destination had already.
    """

    num_blocks: int = 0
    skipped_blocks: int = 0
    num_bytes: int = 0
    transfer_s: float = 0.0
    hidden_s: float = 0.0
    exposed_s: float = 0.0


class Commit(HandoffMessage, frozen=True, tag="commit", kw_only=True):
    """Source: every write has completed. `tokens` are the prompt and what was generated so far.

    The sampler's whole state is in `sampling`, `tokens` and `num_prompt`: draws depend on the seed
    and the position alone. The cache covers all tokens but the last.
    """

    epoch: int
    tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    logprob: TokenLogprob | None = None
    """Of the last token, where the request asked for it."""

    moved: Moved = Moved()
    checksum: int = 0
    """Over the granted pages, in their order, as the source holds them."""


class Accepted(HandoffMessage, frozen=True, tag="accepted", kw_only=True):
    epoch: int


class Rejected(HandoffMessage, frozen=True, tag="rejected", kw_only=True):
    epoch: int
    reason: str


class Abort(HandoffMessage, frozen=True, tag="abort", kw_only=True):
    """Either end: this leg is over for me. Pages return only after `Quiesced`."""

    cause: str
    by_source: bool


class Quiesced(HandoffMessage, frozen=True, tag="quiesced", kw_only=True):
    """Source: no write of mine into this leg's pages is or will be outstanding.

    `epoch` is None when the source never saw a grant.
    """

    epoch: int | None


Handoff = Offer | Grant | Refuse | Commit | Accepted | Rejected | Abort | Quiesced
