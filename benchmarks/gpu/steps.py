"""Answers and durations of the whole engine, with policy and sampler, one runner at a time."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence as Seq
from typing import NamedTuple

import torch

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runners.torch_runner import TorchRunner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams, TokenLogprob

WARM_STEPS = 8
MAX_TOKENS = 256
"""Of sequences whose steps are timed."""
STEP_TOKENS = 16384
"""Prompt tokens of a step, which take memory in proportion."""
NUM_LOGPROBS = 5
"""Alternatives whose log-probabilities are asked for."""


class Answer(NamedTuple):
    """A greedy answer with its log-probabilities, one of each for a token."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[TokenLogprob]


class Driver:
    """An engine with a runner; sequences never end by themselves.

    With `ahead`, the default on a GPU, a step is launched while the one before is computed.
    """

    def __init__(self, runner: TorchRunner, num_blocks: int, *, ahead: bool = True) -> None:
        self.runner = runner
        kind = AsyncEngine if ahead and runner.runs_ahead else Engine
        policy = DecodePolicy(chunk_tokens=STEP_TOKENS, prefill_tokens=STEP_TOKENS)
        self.engine = kind(runner, BlockPool(num_blocks), policy)
        self._draw = random.Random(0)
        self._num_sequences = 0

    def answer(self, lengths: Seq[int], max_tokens: int) -> list[Answer]:
        """Greedy answers to prompts that come one a step, so that steps of all kinds occur."""
        sequences, waiting = list[Sequence](), list(lengths)
        logprobs: dict[str, list[TokenLogprob]] = {}
        while waiting or self.engine.busy:
            if waiting:
                sequences.append(self.add(waiting.pop(0), max_tokens, NUM_LOGPROBS))
            for progress in self.engine.step():
                made = logprobs.setdefault(progress.sequence.attempt_id.request_id, [])
                made += [it.logprob for it in progress.sampled if it.logprob is not None]
        return [
            Answer(
                sequence.tokens[: sequence.num_prompt],
                sequence.tokens[sequence.num_prompt :],
                logprobs[sequence.attempt_id.request_id],
            )
            for sequence in sequences
        ]

    def decode_s(self, batch: int, context: int, steps: int) -> float:
        """Mean elapsed seconds of a step over a run of steps."""
        sequences = self.decoding(batch, context)
        self._wait()
        started = time.perf_counter()
        for _ in range(steps):
            self.engine.step()
        self._wait()
        seconds = (time.perf_counter() - started) / steps
        self.end(sequences)
        return seconds

    def decoding(self, batch: int, context: int) -> list[Sequence]:
        """Sequences of these contexts that have begun to decode."""
        sequences = [self.add(context) for _ in range(batch)]
        while any(sequence.num_output < WARM_STEPS for sequence in sequences):
            self.engine.step()
        return sequences

    def prefill_s(self, num_tokens: int, rounds: int) -> float:
        """Median seconds of prefill of a prompt in one step, up to its first token."""
        return statistics.median([self._prefill_once(num_tokens) for _ in range(rounds + 2)][2:])

    def _prefill_once(self, num_tokens: int) -> float:
        sequence = self.add(num_tokens)
        self._wait()
        started = time.perf_counter()
        self.engine.step()
        self.engine.settle()
        seconds = time.perf_counter() - started
        assert sequence.num_output == 1
        self.end([sequence])
        return seconds

    def add(
        self, num_tokens: int, max_tokens: int = MAX_TOKENS, logprobs: int | None = None
    ) -> Sequence:
        self._num_sequences += 1
        size = self.runner.vocab_size
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

    def _wait(self) -> None:
        if self.runner.device.type == "cuda":
            torch.cuda.synchronize(self.runner.device)
