"""How engines scheduled before a step had prompts and answers: a baseline for comparisons.

vLLM did so until its version 0.6 by default, and published comparisons of split serving have it as
their baseline (DistServe, OSDI 2024; Splitwise, ISCA 2024).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.runner import Slice
from engine.schedule.policy import FreeCapacity, ScheduledTokens
from engine.schedule.role_policy import RolePolicy
from engine.schedule.step_times import StepTimes
from engine.sequence import Sequence
from wire.identity import Role
from wire.policy_traits import PolicyTraits
from worker.config import WorkerConfig

STEP_TOKENS = 2048


class UnmixedPolicy:
    """Implements `engine.schedule.policy.Policy`: a step has whole prompts, or it decodes.

    Prompts come first: as many as have `step_tokens` together, at least one. Sequences that decode
    wait meanwhile.
    """

    def __init__(self, role: Role, step_tokens: int, max_sequences: int) -> None:
        self.role = role
        self._step_tokens = step_tokens
        self._max_sequences = max_sequences

    @property
    def traits(self) -> PolicyTraits:
        return PolicyTraits(
            chunk_tokens=self._step_tokens,
            mixed_chunk_tokens=self._step_tokens,
            min_chunk_tokens=self._step_tokens,
            overtaking_ratio=1 << 20,
        )

    def admits(self, free: FreeCapacity, num_new_blocks: int) -> bool:
        return free.num_running < self._max_sequences and num_new_blocks <= free.free_blocks

    def plan(self, running: Seq[Sequence]) -> list[ScheduledTokens]:
        prompts = [sequence for sequence in running if not sequence.decoding]
        if not prompts:
            return [ScheduledTokens(sequence, 1) for sequence in running]
        return self._whole(prompts)

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        return

    def _whole(self, prompts: Seq[Sequence]) -> list[ScheduledTokens]:
        scheduled: list[ScheduledTokens] = []
        left = self._step_tokens
        for sequence in prompts:
            if scheduled and sequence.num_uncomputed > left:
                break
            scheduled.append(ScheduledTokens(sequence, sequence.num_uncomputed))
            left -= sequence.num_uncomputed
        return scheduled


def unmixed(role: Role, settings: WorkerConfig, times: StepTimes) -> RolePolicy:
    """For `sim.simulation.WorkerPool.make_policy`; `chunk_tokens` are those of a step's prompts."""
    step_tokens = settings.chunk_tokens or STEP_TOKENS
    policies = {each: UnmixedPolicy(each, step_tokens, settings.max_sequences) for each in Role}
    return RolePolicy(policies, role)
