"""A runner whose tokens can be computed by hand, so that a token proves where it was made.

Idea: a mock engine whose prefill and decode weights differ (JetStream's engine tests).
"""

from __future__ import annotations

import mmap
import time
from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from engine.errors import ConfigError
from engine.runner import CacheRegion, Collect, Draws, OnLayer, Outcome, Sampled, Scored, Slice
from engine.runners.played_costs import PlayedCosts
from engine.sequence import Sequence
from kv_transfer.layout.checksum import checksum_host_blocks
from wire.identity import AttemptId
from wire.layout import KvLayout
from wire.sampling import TokenLogprob

NUM_STAMPS = 4


def next_token(tokens: Seq[int], stamp: int, vocab_size: int) -> int:
    """stamp + 4 · (Σ (token_i + 1) · (i + 1) mod vocab_size / 4), i from 0 over all tokens so far.

    `stamp` (0 to 3) is the runner's own: two workers with different stamps show in each token
    (token % 4) who made it. The sum depends on every token and its place, so a KV cache that lost,
    swapped or kept a wrong block gives another token.
    """
    total = sum((token + 1) * (i + 1) for i, token in enumerate(tokens))
    return stamp + NUM_STAMPS * (total % (vocab_size // NUM_STAMPS))


def score(token: int, stamp: int) -> TokenLogprob:
    """A prompt token's log-probability; its fraction shows the stamp of its runner."""
    return TokenLogprob(-token - stamp / NUM_STAMPS, (token,), (-token - stamp / NUM_STAMPS,))


@dataclass(slots=True)
class _SliceWork:
    """A slice as it was when its step was launched; `tokens` may lack the one drawn before it."""

    sequence: Sequence
    blocks: list[int]
    start: int
    count: int
    tokens: list[int]
    num_sampled: int
    followed_by: list[int]
    """Tokens whose log-probabilities are wanted."""

    @staticmethod
    def of(slice: Slice) -> _SliceWork:
        sequence = slice.sequence
        blocks = list(sequence.blocks)
        followed_by = sequence.tokens[slice.start + 1 :][: slice.num_scored]
        return _SliceWork(
            sequence,
            blocks,
            slice.start,
            slice.count,
            slice.tokens,
            slice.num_sampled,
            followed_by,
        )

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def sampled_ends(self) -> range:
        """For each row that is sampled from, how many tokens come before what is drawn."""
        return range(self.end - self.num_sampled + 1, self.end + 1)


@dataclass(slots=True)
class _PendingStep:
    works: list[_SliceWork]
    on_layer: OnLayer | None = None
    outcomes: list[Outcome] | None = None


class ArithmeticRunner:
    """Computes `next_token` from its KV cache alone: key = token + 1, value = position + 1.

    It implements `engine.runner.Runner` on a real cache of int64 [block, layer, 2, 1, slot, width]
    that transports can move: every number stands there `width` times in each of `num_layers`, and
    every copy counts. It has no end-of-sequence token and ignores sampling parameters, but not a
    grammar: of the tokens allowed it takes the one that the sum points to. Where `step_s` is not 0,
    steps end at multiples of it after the runner was made, and with `costs` each takes what its
    work costs: a model of any speed can be played. With `runs_ahead` a launched step is computed
    when it is collected.
    """

    def __init__(
        self,
        *,
        stamp: int = 0,
        block_size: int = 16,
        vocab_size: int = 2048,
        max_model_len: int = 16384,
        width: int = 1,
        num_layers: int = 1,
        step_s: float = 0.0,
        costs: PlayedCosts | None = None,
        runs_ahead: bool = False,
    ) -> None:
        if not 0 <= stamp < NUM_STAMPS:
            raise ConfigError(f"stamp is {stamp}, must be 0 to {NUM_STAMPS - 1}")
        self.stamp = stamp
        self.layout = KvLayout(
            num_layers=num_layers,
            num_kv_heads=1,
            head_size=width,
            block_size=block_size,
            dtype="int64",
        )
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.eos_token_ids: frozenset[int] = frozenset()
        self.checksum_kind = "xxh3"
        self.model_hash = f"arithmetic-{vocab_size}"
        self.runs_ahead = runs_ahead
        self._step_s = step_s
        self._costs = costs
        self._began = time.monotonic()
        self._steps: deque[_PendingStep] = deque()
        self._drawn: dict[AttemptId, int] = {}
        self._cache = np.zeros((0, num_layers, 2, block_size, width), dtype=np.int64)

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        wanted = 64 * 1024 * 1024 if cache_bytes is None else cache_bytes
        num_blocks = wanted // self.layout.block_bytes
        if num_blocks < 1:
            raise ConfigError(
                f"cache_bytes is {wanted}, less than one block of {self.layout.block_bytes} bytes"
            )
        return num_blocks

    def allocate(self, num_blocks: int) -> CacheRegion:
        num_bytes = num_blocks * self.layout.block_bytes
        memory = mmap.mmap(-1, num_bytes)
        self._memory = memoryview(memory)
        self._cache = np.frombuffer(memory, dtype=np.int64).reshape(
            num_blocks, self.layout.num_layers, 2, self.layout.block_size, self.layout.head_size
        )
        return CacheRegion(self._cache.ctypes.data, num_bytes, "cpu", memory)

    def copy_block(self, source: int, target: int) -> None:
        if self._steps:
            self._compute_to(self._steps[-1])
        self._cache[target] = self._cache[source]

    def checksum(self, blocks: Seq[int], first: int) -> int:
        return checksum_host_blocks(self._memory, self.layout.block_bytes, blocks, first)

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Outcome]:
        return self._compute(_PendingStep([_SliceWork.of(slice) for slice in slices], on_layer))

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        """Computed as late as possible, so that a block that was freed too early shows."""
        step = _PendingStep([_SliceWork.of(slice) for slice in slices], on_layer)
        self._steps.append(step)
        if not self.runs_ahead:
            self._compute_to(step)
        return lambda: self._compute_to(step)

    def mark(self) -> None:
        """Steps compute as they are collected."""

    def close(self) -> None:
        """There are no other processes to end."""

    def _compute_to(self, step: _PendingStep) -> list[Outcome]:
        while step.outcomes is None:
            first = self._steps.popleft()
            first.outcomes = self._compute(first)
        return step.outcomes

    def _compute(self, step: _PendingStep) -> list[Outcome]:
        begins = time.monotonic()
        for work in step.works:
            if len(work.tokens) < work.count:
                work.tokens.append(self._drawn[work.sequence.attempt_id])
        for layer in range(self.layout.num_layers):
            for work in step.works:
                self._store(work, layer)
            self._play(begins, step, (layer + 1) / self.layout.num_layers)
            if step.on_layer is not None:
                step.on_layer(layer + 1)
        drawn = [(work, self._draw(work)) for work in step.works]
        self._drawn = {work.sequence.attempt_id: draws[-1].token for work, draws in drawn if draws}
        self._keep_time()
        return [self._outcome(*each) for each in drawn]

    def _draw(self, work: _SliceWork) -> Draws:
        return tuple(Sampled(self._next_token(work, end)) for end in work.sampled_ends)

    def _outcome(self, work: _SliceWork, draws: Draws) -> Outcome:
        if not work.followed_by:
            return draws
        scores = (score(followed, self.stamp) for followed in work.followed_by)
        return Scored(draws, tuple(scores))

    def _play(self, begins: float, step: _PendingStep, share: float) -> None:
        """Sleep until this share of the step's costs is over: all layers take the same time."""
        if self._costs is not None:
            seconds = share * self._costs.seconds([work.count for work in step.works])
            time.sleep(max(0.0, begins + seconds - time.monotonic()))

    def _keep_time(self) -> None:
        """Sleep until the step's end: tokens are made at regular times, so that delays show."""
        if self._step_s:
            time.sleep(self._step_s - (time.monotonic() - self._began) % self._step_s)

    def _store(self, work: _SliceWork, layer: int) -> None:
        positions = np.arange(work.start, work.end)
        blocks = np.array(work.blocks)[positions // self.layout.block_size]
        slots = positions % self.layout.block_size
        tokens = np.array(work.tokens)
        self._cache[blocks, layer, 0, slots] = tokens[:, None] + 1
        self._cache[blocks, layer, 1, slots] = positions[:, None] + 1

    def _next_token(self, work: _SliceWork, end: int) -> int:
        """The token behind the first `end` tokens, from every copy of every number."""
        num_layers, width = self.layout.num_layers, self.layout.head_size
        used = self._cache[work.blocks[: self.layout.num_blocks(end)]]
        by_kind = used.transpose(2, 0, 3, 1, 4).reshape(2, -1, num_layers * width)
        keys, values = by_kind[:, :end]
        total = int(np.einsum("tw,tw->", keys, values)) // (num_layers * width)
        if work.sequence.grammar is not None:
            allowed = work.sequence.grammar.allowed.members()
            return int(allowed[total % len(allowed)])
        return self.stamp + NUM_STAMPS * (total % (self.vocab_size // NUM_STAMPS))
