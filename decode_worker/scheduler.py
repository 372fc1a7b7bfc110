"""A decode worker's policy: one token a step of every decoding sequence, and few of prompts."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.runner import Slice
from engine.schedule.chunk_budget import MIN_CHUNK_TOKENS, ChunkBudget
from engine.schedule.policy import OVERTAKING_RATIO, FreeCapacity, ScheduledTokens, in_turn
from engine.schedule.step_times import StepTimes
from engine.sequence import Sequence
from wire.identity import Role
from wire.policy_traits import PolicyTraits
from worker.fitted_config import FittedConfig


class DecodePolicy:
    """Decode steps come first; prompt chunks that this worker computes itself are kept short.

    Beside decoding sequences a step takes `prefill_tokens` of prompts, or as many as fit into
    `tpot_target_s`, where there is one; without any it takes `chunk_tokens`. `headroom_blocks` for
    each of a few running sequences stay free at admission, for them to grow into.
    """

    role = Role.DECODE

    def __init__(
        self,
        chunk_tokens: int = 512,
        prefill_tokens: int = 128,
        max_sequences: int = 256,
        headroom_blocks: int = 1,
        tpot_target_s: float | None = None,
        times: StepTimes | None = None,
    ) -> None:
        self._chunk_tokens = chunk_tokens
        self._prefill_tokens = prefill_tokens
        self._max_sequences = max_sequences
        self._headroom_blocks = headroom_blocks
        self._chunk_budget = ChunkBudget(tpot_target_s, prefill_tokens, chunk_tokens, times)

    @property
    def traits(self) -> PolicyTraits:
        return PolicyTraits(
            chunk_tokens=self._chunk_tokens,
            mixed_chunk_tokens=self._prefill_tokens,
            min_chunk_tokens=MIN_CHUNK_TOKENS,
            overtaking_ratio=OVERTAKING_RATIO,
        )

    def admits(self, free: FreeCapacity, num_new_blocks: int) -> bool:
        headroom = self._headroom_blocks * min(free.num_running, 8)
        fits = num_new_blocks + headroom <= free.free_blocks
        return free.num_running < self._max_sequences and fits

    def plan(self, running: Seq[Sequence]) -> list[ScheduledTokens]:
        decoding = [sequence for sequence in running if sequence.decoding]
        scheduled = [ScheduledTokens(sequence, 1) for sequence in decoding]
        if len(decoding) == len(running):
            return scheduled
        prompts = [sequence for sequence in running if not sequence.decoding]
        budget = self._chunk_tokens
        if decoding:
            budget = self._chunk_budget.prompt_tokens(decoding, prompts[0])
        return scheduled + in_turn(prompts, budget)

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        self._chunk_budget.observe(slices, seconds)


def make_policy(config: FittedConfig, times: StepTimes) -> DecodePolicy:
    """`times` is what the worker has learned of its steps, in either role."""
    return DecodePolicy(
        chunk_tokens=config.chunk_tokens,
        prefill_tokens=config.mixed_chunk_tokens,
        max_sequences=config.max_sequences,
        tpot_target_s=config.tpot_target_s,
        times=times,
    )
