"""A request of a trace: when it comes, what its prompt shares, how long its answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

BLOCK_TOKENS = 512
"""Tokens for each block id, as in the Mooncake traces; equal ids are equal content."""
ANSWERED = 0
"""Content of what a simulated worker has generated."""

Piece = tuple[int, int]
"""Content, and how many tokens of it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace, which arrives at `at_s` and generates `num_new` tokens.

    `blocks` stand for the prompt's content, a number for each BLOCK_TOKENS tokens; where content
    begins and ends elsewhere, `pieces` do instead.
    """

    at_s: float
    num_prompt: int
    num_new: int
    blocks: tuple[int, ...]
    tenant: str = ""
    pieces: tuple[Piece, ...] = ()

    def later(self, seconds: float) -> Arrival:
        return replace(self, at_s=self.at_s + seconds)

    def tokens(self) -> list[int]:
        tokens: list[int] = []
        for content, count in self.pieces or ((block, BLOCK_TOKENS) for block in self.blocks):
            tokens += [content] * count
        return tokens[: self.num_prompt]


def at_rate(arrivals: Sequence[Arrival], per_s: float) -> list[Arrival]:
    """The requests sped up or slowed down to `per_s` arrivals per second on average."""
    begin = arrivals[0].at_s
    span_s = arrivals[-1].at_s - begin
    factor = (len(arrivals) / span_s) / per_s if span_s > 0 else 0.0
    return [replace(each, at_s=(each.at_s - begin) * factor) for each in arrivals]


def own_blocks(number: int, num_tokens: int) -> tuple[int, ...]:
    """Content that only the request of this number has."""
    first = 1 + number * (1 << 12)
    return tuple(range(first, first + max(1, -(-num_tokens // BLOCK_TOKENS))))
