"""Parity of variants: the same requests must generate the same tokens until two tokens tie."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from benchmarks.gpu.models import SMALL, Variant, make_runner, random_parameters
from benchmarks.gpu.steps import Driver

PROMPTS = (3, 16, 17, 40, 100, 257, 300, 511)
NUM_TOKENS = 40
NUM_BLOCKS = 512
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Maximum difference between two variants' log-probabilities of the same token."""

Answer = list[tuple[int, float, float]]
"""For each token: its id, its log-probability, and the second best token's."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The difference of a variant from the first one."""

    name: str
    dtype: str
    equal: int
    """Number of requests with equal tokens."""
    tied: int
    """Number of requests that differ from a token on that was as likely as the other's."""
    wrong: int
    difference: float
    """Largest difference of log-probabilities among tokens before the first difference."""


def check_parity(device: torch.device, dtype: torch.dtype, variants: Seq[Variant]) -> list[Parity]:
    parameters = random_parameters(SMALL, dtype, device, spread=0.06)
    expected: list[Answer] = []
    found = []
    for variant in variants:
        runner = make_runner(SMALL, parameters, variant, NUM_BLOCKS)
        answers = _answers(Driver(runner, variant, NUM_BLOCKS))
        expected = expected or answers
        found.append(_compared(variant.name, dtype, answers, expected))
    return found


def _answers(driver: Driver) -> list[Answer]:
    """Answers to requests that overlap, so that steps of all kinds occur."""
    answers: list[Answer] = []
    sequences = []
    made: dict[str, Answer] = {}
    waiting = list(PROMPTS)
    while waiting or driver.engine.busy:
        if waiting:
            sequences.append(driver.add(waiting.pop(0), NUM_TOKENS, logprobs=2))
        for progress in driver.engine.step():
            if progress.sampled and (logprob := progress.sampled[-1].logprob) is not None:
                entry = progress.sampled[-1].token, logprob.logprob, logprob.top_logprobs[1]
                made.setdefault(progress.sequence.attempt_id.request_id, []).append(entry)
    answers += [made[sequence.attempt_id.request_id] for sequence in sequences]
    return answers


def _compared(
    name: str, dtype: torch.dtype, answers: list[Answer], expected: list[Answer]
) -> Parity:
    equal = tied = wrong = 0
    difference, allowed = 0.0, TOLERANCE[dtype]
    for answer, reference in zip(answers, expected, strict=True):
        for (token, logprob, _), (wanted, best, second) in zip(answer, reference, strict=True):
            if token != wanted:
                close = best - second <= allowed and abs(logprob - best) <= allowed
                tied, wrong = tied + close, wrong + (not close)
                break
            difference = max(difference, abs(logprob - best))
        else:
            equal += 1
    wrong += difference > allowed
    return Parity(name, str(dtype).removeprefix("torch."), equal, tied, wrong, difference)
