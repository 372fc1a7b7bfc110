"""How long a step takes, learned from the steps so far; pure, and the same for every device."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import msgspec
import numpy as np

from engine.runner import Slice

ENOUGH_STEPS = 3
"""Steps with prompts that were seen before predictions about prompts are believed."""
FORGETTING = 0.995
"""A step counts this much less with each one after it: some hundred of them are remembered."""
MOST_UNCERTAIN = 1e4
"""Where the steps say nothing about one kind of work for long, no more is forgotten about it."""


_UNITS = (1, 8, 4096, 128, 65536)


def num_pairs(count: int, start: int) -> int:
    """Of a prompt's tokens [start, start + count) and those that each of them sees."""
    return count * (2 * start + count) // 2


class StepWork(msgspec.Struct, frozen=True, gc=False):
    """What a step computes, in the quantities that its duration is linear in."""

    num_decoding: int = 0
    context_tokens: int = 0
    """Cached tokens that the decoding sequences read."""
    prompt_tokens: int = 0
    prompt_pairs: int = 0
    """Of a prompt token and one that it sees."""

    @staticmethod
    def of(slices: Seq[Slice]) -> StepWork:
        decoding = context = tokens = pairs = 0
        for piece in slices:
            if piece.count == 1:
                decoding += 1
                context += piece.start
            else:
                tokens += piece.count
                pairs += num_pairs(piece.count, piece.start)
        return StepWork(decoding, context, tokens, pairs)

    def features(self) -> np.ndarray:
        """Scaled to similar sizes, float64 [5]; the first stands for the step itself."""
        return np.array(
            [
                1.0,
                self.num_decoding / _UNITS[1],
                self.context_tokens / _UNITS[2],
                self.prompt_tokens / _UNITS[3],
                self.prompt_pairs / _UNITS[4],
            ]
        )


class StepTimes:
    """Recursive least squares with forgetting. (Plackett, Biometrika 37, 1950)"""

    def __init__(self) -> None:
        self._weights = np.zeros(5)
        self._uncertainty = np.eye(5) * MOST_UNCERTAIN
        self.num_prompt_steps = 0

    def observe(self, work: StepWork, seconds: float) -> None:
        features = work.features()
        reach = self._uncertainty @ features
        gain = reach / (FORGETTING + features @ reach)
        self._weights += gain * (seconds - features @ self._weights)
        self._uncertainty -= np.outer(gain, reach)
        if np.trace(self._uncertainty) < MOST_UNCERTAIN:
            self._uncertainty /= FORGETTING
        self.num_prompt_steps += work.prompt_tokens > 0

    @property
    def knows_prompts(self) -> bool:
        """Enough steps with prompts were seen."""
        return self.num_prompt_steps >= ENOUGH_STEPS

    def per_unit(self) -> list[float]:
        """Seconds for the step itself, and for one of each of the quantities of StepWork."""
        return [float(w) / unit for w, unit in zip(self._weights, _UNITS, strict=True)]

    def predict(self, work: StepWork) -> float:
        """Seconds; never negative."""
        return max(0.0, float(work.features() @ self._weights))

    def prompt_tokens_within(self, work: StepWork, context: int, seconds: float) -> float:
        """How many prompt tokens behind `context` others fit, beside this work, into that time.

        Below 0 when the work takes longer by itself.
        """
        alone = self.predict(work)
        pairs = num_pairs(128, context)
        one_chunk = StepWork(
            work.num_decoding,
            work.context_tokens,
            work.prompt_tokens + 128,
            work.prompt_pairs + pairs,
        )
        each_s = max(1e-9, (self.predict(one_chunk) - alone) / 128)
        return (seconds - alone) / each_s
