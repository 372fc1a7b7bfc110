"""The runner interface: executes a step, with the torch model or the hand-computable one."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

import msgspec

from engine.sequence import Sequence
from kv_transfer.layout.checksum import Checksum
from kv_transfer.layout.region import CacheRegion
from kv_transfer.streams import Event
from wire.layout import KvLayout
from wire.sampling import TokenLogprob

__all__ = [
    "CacheRegion",
    "Collect",
    "Draws",
    "OnLayer",
    "Outcome",
    "Runner",
    "Sampled",
    "Scored",
    "Slice",
    "accepted",
    "drawn",
]


OnLayer = Callable[[int], None]


class Slice(msgspec.Struct, frozen=True, gc=False):
    """One sequence's share of a step: compute the KV cache of `count` tokens from `start` on.

    The sequence's blocks already cover start + count tokens. `drafts` are guesses at the tokens
    behind the known ones: the slice ends with them, and a token is sampled behind the last known
    token and behind each draft. A sequence with a grammar, or whose last token is not known yet,
    is given none.
    """

    sequence: Sequence
    start: int
    count: int
    drafts: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def tokens(self) -> list[int]:
        """The slice's tokens, without the one that a step in flight draws."""
        known = self.sequence.tokens[self.start : self.start + self.count]
        return [*known, *self.drafts] if self.drafts else known

    @property
    def num_known(self) -> int:
        """Tokens of the slice that are the sequence's own, not drafts."""
        return self.count - len(self.drafts)

    @property
    def num_sampled(self) -> int:
        """Last rows of the slice that are sampled from: none where it ends before the last known
        token, or else that token's and each draft's."""
        sequence, drafts = self.sequence, self.drafts
        known = len(sequence.tokens) + sequence.num_unknown
        return 1 + len(drafts) if self.start + self.count == known + len(drafts) else 0

    @property
    def drafted(self) -> list[Sequence]:
        """The sequence as it would be behind each draft, which is what its row is sampled for."""
        drafts = self.drafts
        return [self.sequence.followed_by(drafts[:n]) for n in range(1, len(drafts) + 1)]

    @property
    def num_scored(self) -> int:
        """Leading tokens of the slice whose successors' log-probabilities were asked for."""
        return self.sequence.num_scored(self.start, self.end)


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """A drawn token, and its log-probability when the request asked for it."""

    token: int
    logprob: TokenLogprob | None = None


Draws = tuple[Sampled, ...]
"""A slice's `num_sampled` tokens, in the order of its rows. A draw follows from the logits, the
sequence's seed and the token's position alone, whichever step it is made in."""


class Scored(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a slice that computes prompt log-probabilities, `num_scored` of them."""

    draws: Draws
    scores: tuple[TokenLogprob, ...]


Outcome = Draws | Scored
"""A slice's result."""

Collect = Callable[[], Seq[Outcome]]
"""Waits for a step's end and returns one outcome a slice. Called once."""


def drawn(outcome: Outcome) -> Draws:
    return outcome.draws if isinstance(outcome, Scored) else outcome


def accepted(drafts: Seq[int], draws: Draws) -> Draws:
    """The draws up to the first that contradicts its draft: those behind it had a wrong prefix."""
    if not drafts:
        return draws
    for number, (draft, made) in enumerate(zip(drafts, draws, strict=False)):
        if made.token != draft:
            return draws[: number + 1]
    return draws


class Runner(Protocol):
    """Owned by one thread. It reads sequences and never changes them."""

    layout: KvLayout
    vocab_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    model_hash: str
    """Equal on two workers exactly when they hold the same model."""

    checksum_kind: str
    """Equal on two workers exactly when `checksum` gives them the same for the same content."""

    runs_ahead: bool
    """True when a launched step computes while the caller does something else."""

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        """Number of blocks that fit into `cache_bytes`, or else that fraction of free memory."""
        ...

    def allocate(self, num_blocks: int) -> CacheRegion:
        """Allocate the cache, once, before the first run."""
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Copy a block as all steps so far, launched ones included, leave it.

        When it returns, another owner may write to `source`.
        """
        ...

    def checksum(self, blocks: Seq[int], first: int) -> Checksum:
        """Checksum of these blocks' content, computed on the device beside the steps; blocks[0] is
        block `first` of its sequence. See kv_transfer.layout.checksum; thread-safe."""
        ...

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Seq[Outcome]:
        """Compute all slices in one batch; one outcome a slice.

        Slices of prefill chunks and of decode steps mix freely; no two share a sequence. When it
        returns, the cache of all slices is in memory, so that a transport may read it. Before,
        `on_layer(n)` may be called, once or more, whenever that is true of the first n layers.
        """
        ...

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        """`run` in two parts: the next step may be launched before this one is collected.

        A slice may then consist of the one token that the step before draws. Steps are collected
        in their order. `on_layer` is called before `launch` returns, or where steps run ahead while
        this one is collected: the next one's kernels are launched by then.
        """
        ...

    def mark(self) -> Event | None:
        """An event behind everything that was launched; None where steps compute as they are
        collected."""
        ...

    def close(self) -> None:
        """End processes of other ranks. The runner is not used after this."""
        ...
