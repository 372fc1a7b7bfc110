"""The largest step that a worker takes, and the device memory that it needs beside the cache.

It is taken once, before the cache is sized: prompts of `chunk_tokens` tokens that end the longest
sequences, with as many decoding sequences as a batch may have, all of which sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from engine.errors import ConfigError
from engine.model.step_inputs import StepSlice
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class LargestStep:
    """A step of tokens 0, whose sequences share `num_blocks` blocks: nobody reads what it made."""

    chunk_tokens: int
    max_sequences: int
    max_model_len: int
    block_size: int

    @property
    def num_blocks(self) -> int:
        """Blocks for one prompt of `chunk_tokens` tokens."""
        return -(-min(self.chunk_tokens, self.max_model_len) // self.block_size)

    def slices(self) -> list[StepSlice]:
        """Prompts, and rows of one token."""
        return [*self._prompts(), *self.decode_rows()[: self.max_sequences - 1]]

    def decode_rows(self) -> list[StepSlice]:
        """A step of the most rows that a captured one has, each of the longest sequence."""
        return [self._slice(self.max_model_len, 1)] * self.max_sequences

    def sequences(self, count: int) -> list[Sequence]:
        """Sequences for as many rows, with sampling that needs scratch memory."""
        sampling = SamplingParams(max_tokens=1, temperature=1.0, seed=0, top_p=0.9, top_k=100)
        return [Sequence(AttemptId("largest-step"), [0], sampling)] * count

    def _prompts(self) -> Iterator[StepSlice]:
        left = self.chunk_tokens
        while left > 0:
            count = min(left, self.max_model_len)
            yield self._slice(self.max_model_len, count)
            left -= count

    def _slice(self, end: int, count: int) -> StepSlice:
        blocks = [entry % self.num_blocks for entry in range(-(-end // self.block_size))]
        return StepSlice(end - count, count, blocks, [0] * count, None, end, 1)


def peak_bytes(compute: Callable[[], object], device: torch.device) -> int:
    """Device memory that `compute` takes at its peak. ConfigError where there is not so much."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        compute()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"chunk_tokens, max_sequences: the largest step does not fit on {device}: {error}"
        ) from error
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before
