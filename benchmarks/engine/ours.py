"""Tandem's engine in this process: prefill, decode steps, and steps without a model."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runners.torch_loading import load_torch_runner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Cost:
    """Median seconds of one action: elapsed, and of CPU time over all threads."""

    wall_s: float
    cpu_s: float


class Ours:
    """An engine with its own block pool; sequences never end by themselves."""

    name = "tandem"

    def __init__(self, directory: Path, dtype: str, threads: int, num_blocks: int = 4096) -> None:
        started = time.perf_counter()
        self.runner = load_torch_runner(directory, device="cpu", dtype=dtype, threads=threads)
        self.load_s = time.perf_counter() - started
        self.runner.allocate(num_blocks)
        self._engine = Engine(
            self.runner, BlockPool(num_blocks), DecodePolicy(chunk_tokens=1 << 20)
        )
        self._draw = random.Random(0)
        self._num_sequences = 0

    def prefill(self, num_tokens: int, rounds: int) -> Cost:
        """Prefill a prompt in one step, up to its first token."""
        return median_cost([self._prefill_once(num_tokens) for _ in range(rounds + 1)][1:])

    def decode(self, batch: int, context: int, rounds: int) -> Cost:
        """Run one decode step of `batch` sequences."""
        sequences = [self._add(context) for _ in range(batch)]
        while any(sequence.num_output == 0 for sequence in sequences):
            self._engine.step()
        costs = [timed_cost(self._engine.step) for _ in range(rounds + 1)]
        self._drop(sequences)
        return median_cost(costs[1:])

    def _prefill_once(self, num_tokens: int) -> Cost:
        sequence = self._add(num_tokens)
        cost = timed_cost(self._engine.step)
        assert sequence.num_output == 1
        self._drop([sequence])
        return cost

    def _add(self, num_tokens: int) -> Sequence:
        self._num_sequences += 1
        tokens = [self._draw.randrange(5, self.runner.vocab_size) for _ in range(num_tokens)]
        sampling = SamplingParams(max_tokens=512, temperature=0.0, ignore_eos=True)
        sequence = Sequence(AttemptId(str(self._num_sequences)), tokens, sampling)
        self._engine.add(sequence)
        return sequence

    def _drop(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self._engine.drop(sequence)


def timed_cost(action: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def median_cost(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
    )
