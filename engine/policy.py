"""What a scheduler decides. The engine asks, and does; it never decides itself."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import msgspec

from engine.runner import Slice
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for one more sequence: blocks and places."""

    free_blocks: int
    num_running: int


class Share(msgspec.Struct, frozen=True, gc=False):
    """Compute `count` more tokens of this running sequence in the next step."""

    sequence: Sequence
    count: int


def in_turn(prompts: Seq[Sequence], budget: int) -> list[Share]:
    """Prompts one after the other, as far as so many tokens go."""
    shares = []
    for sequence in prompts:
        count = min(sequence.num_uncomputed, budget)
        if count > 0:
            shares.append(Share(sequence, count))
            budget -= count
    return shares


class Policy(Protocol):
    """A pure scheduler: values in, values out."""

    def admits(self, room: Room, num_new_blocks: int) -> bool:
        """May the sequence at the head of the queue start, which needs that many new blocks?"""
        ...

    def plan(self, running: Seq[Sequence]) -> list[Share]:
        """The next step, most important first. `running` is in the order of admission."""
        ...

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        """A step took so long."""
        ...
