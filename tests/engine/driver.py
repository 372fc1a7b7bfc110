"""Drives a runner by hand: sequences with blocks, and steps of chosen slices."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.cache.block_pool import BlockPool
from engine.runner import Runner, Sampled, Slice, drawn
from engine.schedule.policy import FreeCapacity, ScheduledTokens
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams

GREEDY = SamplingParams(max_tokens=1000, temperature=0.0, ignore_eos=True)


def make_sequence(
    tokens: Seq[int],
    sampling: SamplingParams = GREEDY,
    *,
    num_prompt: int | None = None,
    name: str = "request",
) -> Sequence:
    return Sequence(AttemptId(name), list(tokens), sampling, num_prompt=num_prompt)


def give_blocks(sequence: Sequence, pool: BlockPool, num_tokens: int) -> None:
    """Scattered blocks for `num_tokens` tokens, on top of those that it has."""
    missing = -(-num_tokens // 4) - len(sequence.blocks)
    blocks = pool.try_allocate(missing)
    assert blocks is not None
    sequence.blocks += blocks[::-1]


def step(runner: Runner, pieces: Seq[tuple[Sequence, int]]) -> list[Sampled | None]:
    """One batch of (sequence, tokens to compute), which advances the sequences."""
    slices = [Slice(sequence, sequence.num_computed, count) for sequence, count in pieces]
    results = [next(iter(drawn(outcome)), None) for outcome in runner.run(slices)]
    for slice, sampled in zip(slices, results, strict=True):
        slice.sequence.num_computed = slice.end
        if sampled is not None:
            slice.sequence.tokens.append(sampled.token)
    return results


def decode(runner: Runner, sequences: Seq[Sequence], num_output: int) -> None:
    """Steps until every sequence has that many output tokens."""
    while pieces := [(s, s.num_uncomputed) for s in sequences if s.num_output < num_output]:
        step(runner, pieces)


def output(sequence: Sequence) -> list[int]:
    return sequence.tokens[sequence.num_prompt :]


class ChunkPolicy:
    """Everything runs, in chunks of at most `chunk` tokens a sequence."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def admits(self, room: FreeCapacity, num_new_blocks: int) -> bool:
        return num_new_blocks <= room.free_blocks

    def plan(self, running: Seq[Sequence]) -> list[ScheduledTokens]:
        return [ScheduledTokens(s, min(self._chunk, s.num_uncomputed)) for s in running]

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        """It is the same to this policy."""
