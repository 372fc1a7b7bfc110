"""A prefill worker's policy: prompts one after the other, in chunks, first come, first served."""

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


class PrefillPolicy:
    """Finishing one prompt before starting the next gives the lowest mean time to first token.

    `chunk_tokens` bounds a step: after each chunk its blocks can be sent to the decode worker while
    the next is computed. Sequences that this worker decodes itself are in each step with one token;
    then a step has as many prompt tokens as fit into `tpot_target_s`, where there is one, or
    `mixed_chunk_tokens`, which is a chunk unless it is given.
    """

    role = Role.PREFILL

    def __init__(
        self,
        chunk_tokens: int = 512,
        max_sequences: int = 64,
        tpot_target_s: float | None = None,
        mixed_chunk_tokens: int | None = None,
        times: StepTimes | None = None,
    ) -> None:
        mixed = mixed_chunk_tokens or chunk_tokens
        self._chunk_tokens = chunk_tokens
        self._mixed_chunk_tokens = mixed
        self._max_sequences = max_sequences
        self._chunk_budget = ChunkBudget(tpot_target_s, mixed, chunk_tokens, times)

    @property
    def traits(self) -> PolicyTraits:
        return PolicyTraits(
            chunk_tokens=self._chunk_tokens,
            mixed_chunk_tokens=self._mixed_chunk_tokens,
            min_chunk_tokens=MIN_CHUNK_TOKENS,
            overtaking_ratio=OVERTAKING_RATIO,
        )

    def admits(self, free: FreeCapacity, num_new_blocks: int) -> bool:
        return free.num_running < self._max_sequences and num_new_blocks <= free.free_blocks

    def plan(self, running: Seq[Sequence]) -> list[ScheduledTokens]:
        decoding = [sequence for sequence in running if sequence.decoding]
        scheduled = [ScheduledTokens(sequence, 1) for sequence in decoding]
        prompts = [sequence for sequence in running if not sequence.decoding]
        budget = self._chunk_tokens - len(decoding)
        if decoding and prompts:
            budget = min(budget, self._chunk_budget.prompt_tokens(decoding, prompts[0]))
        return scheduled + in_turn(prompts, budget)

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        self._chunk_budget.observe(slices, seconds)


def make_policy(config: FittedConfig, times: StepTimes) -> PrefillPolicy:
    """`times` is what the worker has learned of its steps, in either role."""
    return PrefillPolicy(
        config.chunk_tokens,
        config.max_sequences,
        config.tpot_target_s,
        config.mixed_chunk_tokens,
        times,
    )
