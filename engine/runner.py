"""What executes a step: the torch model, or the hand-computable one, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

import msgspec

from engine.sequence import Sequence
from kv_transfer.layout.region import CacheRegion
from wire.layout import KvLayout
from wire.sampling import TokenLogprob

__all__ = [
    "CacheRegion",
    "Collect",
    "OnLayer",
    "Outcome",
    "Runner",
    "Sampled",
    "Scored",
    "Slice",
    "drawn",
]


OnLayer = Callable[[int], None]


class Slice(msgspec.Struct, frozen=True, gc=False):
    """One sequence's share of a step: compute the KV cache of `count` tokens from `start` on.

    The sequence's blocks already cover start + count tokens.
    """

    sequence: Sequence
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """True when the slice reaches the last known token, so that the next one is drawn."""
        sequence = self.sequence
        return self.start + self.count == len(sequence.tokens) + sequence.num_unknown

    @property
    def num_scored(self) -> int:
        """Leading tokens of the slice whose successors' log-probabilities are wanted."""
        return self.sequence.num_scored(self.start, self.end)


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """A drawn token, and its log-probability when the request asked for it."""

    token: int
    logprob: TokenLogprob | None = None


class Scored(msgspec.Struct, frozen=True, gc=False):
    """What a slice came to of whose prompt log-probabilities are wanted, `num_scored` of them."""

    sampled: Sampled | None
    scores: tuple[TokenLogprob, ...]


Outcome = Sampled | Scored | None
"""Of a slice; None where it does not sample."""

Collect = Callable[[], Seq[Outcome]]
"""Waits for a step; one result a slice. Called once."""


def drawn(outcome: Outcome) -> Sampled | None:
    return outcome.sampled if isinstance(outcome, Scored) else outcome


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
        """How many blocks fit into `cache_bytes`, or else into that fraction of free memory."""
        ...

    def allocate(self, num_blocks: int) -> CacheRegion:
        """Allocate the cache, once, before the first run."""
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Copy what the steps so far, launched ones included, have written to a block.

        When it returns, another owner may write to `source`.
        """
        ...

    def checksum(self, blocks: Seq[int], first: int) -> int:
        """Checksum of these blocks' content, of which blocks[0] has the place `first` in its
        sequence; computed where it lies; see kv_transfer.layout.checksum."""
        ...

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Seq[Outcome]:
        """Compute all slices in one batch; one result a slice, None where it does not sample.

        Slices of prefill chunks and of decode steps mix freely; no two share a sequence. When it
        returns, the cache of all slices is in memory, so that a transport may read it. Before,
        `on_layer(n)` may be called whenever that is true of the first n layers.
        """
        ...

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        """The same in two parts; the next step may be launched before this one is collected.

        A slice of one token may then be of a token that the step before draws. Steps are
        collected in their order. `on_layer` is called before this returns, if at all.
        """
        ...

    def close(self) -> None:
        """End what computes elsewhere. Nothing is asked of the runner after this."""
        ...
