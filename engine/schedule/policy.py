"""The scheduling policy: which sequences start, and which tokens the next step computes."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import msgspec

from engine.runner import Slice
from engine.sequence import Sequence
from wire.identity import Role
from wire.policy_traits import PolicyTraits


@dataclass(frozen=True, slots=True)
class FreeCapacity:
    """Free blocks, and the number of running sequences, when one more asks to start."""

    free_blocks: int
    num_running: int


class ScheduledTokens(msgspec.Struct, frozen=True, gc=False):
    """Compute `count` more tokens of this running sequence in the next step."""

    sequence: Sequence
    count: int


OVERTAKING_RATIO = 4
"""A prompt that has this many times fewer tokens left than the first one may overtake it: such
prompts share half of a step."""


def in_turn(prompts: Seq[Sequence], budget: int) -> list[ScheduledTokens]:
    """Schedule `budget` tokens of prompts, one after the other, the most urgent first.

    Much shorter ones do not wait for a long one that came before: they share half of the step, the
    shortest first, so that a prompt of a few tokens is not held up by one of a hundred thousand,
    which takes twice its time at most.
    """
    if not prompts or budget < 1:
        return []
    prompts = sorted(prompts, key=lambda sequence: sequence.traits.priority)
    first, *others = prompts
    most = first.num_uncomputed
    if most > budget and others:
        short = [s for s in others if s.num_uncomputed * OVERTAKING_RATIO <= most]
        half = _one_by_one(sorted(short, key=lambda s: s.num_uncomputed), budget // 2)
        if half:
            return [ScheduledTokens(first, budget - sum(share.count for share in half)), *half]
    return _one_by_one(prompts, budget)


def _one_by_one(prompts: Seq[Sequence], budget: int) -> list[ScheduledTokens]:
    shares = []
    for sequence in prompts:
        count = min(sequence.num_uncomputed, budget)
        if count > 0:
            shares.append(ScheduledTokens(sequence, count))
            budget -= count
    return shares


class Policy(Protocol):
    """A pure scheduler: values in, values out."""

    role: Role
    """The role that it serves."""

    @property
    def traits(self) -> PolicyTraits:
        """The parameters that routers need to predict its steps."""
        ...

    def admits(self, free: FreeCapacity, num_new_blocks: int) -> bool:
        """True when the first sequence in the queue, which needs so many new blocks, may start."""
        ...

    def plan(self, running: Seq[Sequence]) -> list[ScheduledTokens]:
        """The next step, most important first. `running` is in the order of admission."""
        ...

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        """Learn from a step's duration."""
        ...
