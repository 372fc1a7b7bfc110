"""Whether copying a KV cache is quicker than computing it again, learned from both; pure."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.runner import Slice
from engine.schedule.step_times import StepTimes, StepWork, num_pairs

FIRST_GUESS = 2e9
"""Bytes per second of a copy, until one was made."""
MEMORY = 0.9
"""A copy counts this much less with each one after it."""


class CopyCosts:
    """Until enough steps were seen, copying is taken to be quicker: it nearly always is."""

    def __init__(self) -> None:
        self._times = StepTimes()
        self._bytes = 0.0
        self._seconds = 0.0

    @property
    def bytes_per_s(self) -> float:
        return self._bytes / self._seconds if self._seconds > 0 else FIRST_GUESS

    def observe_step(self, slices: Seq[Slice], seconds: float) -> None:
        """Learn from a step's duration. Steps without prompts, recognized by their last slice, are
        skipped: they say little about recomputation."""
        if slices and slices[-1].count > 1:
            self._times.observe(StepWork.of(slices), seconds)

    def observe_copy(self, num_bytes: int, seconds: float) -> None:
        self._bytes = MEMORY * self._bytes + num_bytes
        self._seconds = MEMORY * self._seconds + seconds

    def copy_s(self, num_bytes: int) -> float:
        return num_bytes / self.bytes_per_s

    def compute_s(self, num_tokens: int, context: int) -> float | None:
        """Seconds that these prompt tokens behind a context add to a step; None while unknown."""
        if not self._times.knows_prompts:
            return None
        work = StepWork(prompt_tokens=num_tokens, prompt_pairs=num_pairs(num_tokens, context))
        return max(0.0, self._times.predict(work) - self._times.predict(StepWork()))

    def copying_is_quicker(self, num_bytes: int, num_tokens: int, context: int = 0) -> bool:
        computing_s = self.compute_s(num_tokens, context)
        return computing_s is None or self.copy_s(num_bytes) < computing_s
