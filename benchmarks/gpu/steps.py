"""Durations of decode steps and prefills in the whole engine, with policy and sampler."""

from __future__ import annotations

import random
import statistics
import time

import torch

from benchmarks.gpu.models import Variant
from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runners.torch_runner import TorchRunner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams

WARM_STEPS = 8
STEPS = 64
ROUNDS = 6


class Driver:
    """An engine with a runner; sequences never end by themselves."""

    def __init__(self, runner: TorchRunner, variant: Variant, num_blocks: int) -> None:
        self._runner = runner
        kind = AsyncEngine if variant.ahead else Engine
        policy = DecodePolicy(chunk_tokens=1 << 20, prefill_tokens=1 << 20)
        self.engine = kind(runner, BlockPool(num_blocks), policy)
        self._draw = random.Random(0)
        self._num_sequences = 0

    def decode_s(self, batch: int, context: int) -> float:
        """Mean elapsed seconds per step over a run of steps."""
        sequences = [self.add(context) for _ in range(batch)]
        while any(sequence.num_output < WARM_STEPS for sequence in sequences):
            self.engine.step()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(STEPS):
            self.engine.step()
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / STEPS
        self.end(sequences)
        return seconds

    def prefill_s(self, num_tokens: int) -> float:
        """Seconds of prefill of a prompt in one step, up to its first token."""
        return statistics.median([self._prefill_once(num_tokens) for _ in range(ROUNDS + 2)][2:])

    def _prefill_once(self, num_tokens: int) -> float:
        sequence = self.add(num_tokens)
        torch.cuda.synchronize()
        started = time.perf_counter()
        self.engine.step()
        self.engine.settle()
        seconds = time.perf_counter() - started
        assert sequence.num_output == 1
        self.end([sequence])
        return seconds

    def add(self, num_tokens: int, max_tokens: int = 1024, logprobs: int | None = None) -> Sequence:
        self._num_sequences += 1
        size = self._runner.vocab_size
        tokens = [self._draw.randrange(size) for _ in range(num_tokens)]
        sampling = SamplingParams(
            max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=logprobs
        )
        sequence = Sequence(AttemptId(str(self._num_sequences)), tokens, sampling)
        self.engine.add(sequence)
        return sequence

    def end(self, sequences: list[Sequence]) -> None:
        self.engine.settle()
        for sequence in sequences:
            self.engine.drop(sequence)
