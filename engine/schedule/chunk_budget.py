"""Chunked prefill: how many prompt tokens join a decode step, within a time per output token."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.runner import Slice
from engine.schedule.step_times import StepTimes, StepWork
from engine.sequence import Sequence

MIN_CHUNK_TOKENS = 16
"""A prompt advances by at least this many tokens a step, however long the step is without it."""


class ChunkBudget:
    """Keeps steps within `target_s`, the time per output token, where there is one.

    `at_first` is the number of prompt tokens while nothing is known, and always without a target.
    What is learned of steps goes to `times`, which several budgets may share.
    """

    def __init__(
        self, target_s: float | None, at_first: int, most: int, times: StepTimes | None = None
    ) -> None:
        self._target_s = target_s
        self._at_first = at_first
        self._most = most
        self.times = StepTimes() if times is None else times

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        if self._target_s is None:
            return  # without a target nothing is predicted
        self.times.observe(StepWork.of(slices), seconds)

    def prompt_tokens(self, decoding: Seq[Sequence], prompt: Sequence) -> int:
        """Prompt tokens for the next step; `prompt` is the first in turn."""
        if self._target_s is None or not self.times.knows_prompts:
            return self._at_first
        work = StepWork(len(decoding), sum(sequence.num_computed for sequence in decoding))
        fits = self.times.prompt_tokens_within(work, prompt.num_computed, self._target_s)
        return int(min(max(fits, MIN_CHUNK_TOKENS), self._most))
