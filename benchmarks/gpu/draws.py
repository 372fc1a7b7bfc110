"""Batches of sequences that sample in one way, for the sampler."""

from __future__ import annotations

from typing import Any

from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-k": {"temperature": 0.8, "top_k": 20},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
    "top-k and top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "penalties": {"temperature": 0.8, "presence_penalty": 0.5, "repetition_penalty": 1.1},
}


def drawing_sequences(count: int, kind: str) -> list[Sequence]:
    """Sequences of fifty tokens, whose seeds differ."""
    return [
        Sequence(
            AttemptId(str(number)),
            list(range(number, number + 50)),
            SamplingParams(max_tokens=10, seed=number, ignore_eos=True, **KINDS[kind]),
        )
        for number in range(count)
    ]
