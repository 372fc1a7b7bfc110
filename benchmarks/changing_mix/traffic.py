"""Traffic whose mix changes: long prompts, then long answers, then conversations."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from sim.traces import BLOCK_TOKENS, Arrival
from sim.traces.draws import drawn_length

PHASE_S = 60.0
SIGMA = 0.4
"""Standard deviation of the logarithm of lengths."""
NUM_SHARED_BLOCKS = 2
"""Blocks of BLOCK_TOKENS tokens with which all conversations begin."""
NUM_TURNS = 6
"""Mean number of turns of a conversation."""
THINK_S = 3.0
"""Least time between two turns of a conversation."""

Sizes = Callable[[float], int]
"""Draws a length, in tokens, of this mean."""
Source = Callable[[random.Random, Sizes, Iterator[int]], Callable[[float], Arrival]]
"""Given a source of block numbers, returns what makes the request that comes at a time."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Traffic of one kind."""

    name: str
    first_block: int
    """The lowest of its block numbers: phases share no prefix."""
    source: Source

    def arrivals(self, per_s: float, phase_s: float, seed: int) -> list[Arrival]:
        """Poisson arrivals for so many seconds."""
        draw = random.Random(f"{self.name}, {seed}")
        make = self.source(
            draw, lambda mean: drawn_length(draw, mean, SIGMA), count(self.first_block)
        )
        arrivals, at_s = [], draw.expovariate(per_s)
        while at_s < phase_s:
            arrivals.append(make(at_s))
            at_s += draw.expovariate(per_s)
        return arrivals


def separate(num_prompt: int, num_new: int) -> Source:
    """Requests that share nothing, of these mean lengths."""

    def source(
        draw: random.Random, size: Sizes, blocks: Iterator[int]
    ) -> Callable[[float], Arrival]:
        def make(at_s: float) -> Arrival:
            length = size(num_prompt)
            return Arrival(at_s, length, size(num_new), _take(blocks, length))

        return make

    return source


@dataclass(slots=True)
class _Conversation:
    num_tokens: int
    blocks: tuple[int, ...]
    last_s: float


def conversations(num_first: int, num_appended: int, num_new: int) -> Source:
    """Turns of conversations: the first prompt has a prefix that all share and `num_first` tokens
    of its own, each further one all prompts before it and `num_appended` tokens more."""

    def source(
        draw: random.Random, size: Sizes, blocks: Iterator[int]
    ) -> Callable[[float], Arrival]:
        shared = _take(blocks, NUM_SHARED_BLOCKS * BLOCK_TOKENS)
        quiet = deque[_Conversation]()

        def make(at_s: float) -> Arrival:
            if quiet and at_s - quiet[0].last_s > THINK_S and draw.random() > 1 / NUM_TURNS:
                turn = quiet.popleft()
                turn.num_tokens += size(num_appended)
            else:
                turn = _Conversation(len(shared) * BLOCK_TOKENS + size(num_first), shared, at_s)
            missing = turn.num_tokens - len(turn.blocks) * BLOCK_TOKENS
            turn.blocks += _take(blocks, missing)
            turn.last_s = at_s
            quiet.append(turn)
            return Arrival(at_s, turn.num_tokens, size(num_new), turn.blocks)

        return make

    return source


PHASES = (
    Phase("long prompts", 1 << 24, separate(4096, 64)),
    Phase("long answers", 2 << 24, separate(256, 512)),
    Phase("conversations", 3 << 24, conversations(1024, 128, 192)),
)


def _take(blocks: Iterator[int], num_tokens: int) -> tuple[int, ...]:
    return tuple(next(blocks) for _ in range(-(-num_tokens // BLOCK_TOKENS)))
