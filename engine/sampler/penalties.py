"""Changes to the logits that follow from what a sequence already holds."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from engine.sequence import Sequence


def changes_logits(sequence: Sequence) -> bool:
    """True when `penalize` would do something."""
    sampling = sequence.sampling
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sequence.num_output < sampling.min_tokens
    )


def penalize(logits: Tensor, sequence: Sequence, eos_token_ids: frozenset[int]) -> None:
    """Change `logits` [vocab_size] in place, each penalty on top of the ones before."""
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1.0:
        _penalize_repetition(logits, sequence)
    if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0:
        _penalize_presence(logits, sequence)
    if sequence.num_output < sampling.min_tokens:
        _ban_stops(logits, sequence, eos_token_ids)


def _penalize_repetition(logits: Tensor, sequence: Sequence) -> None:
    """Keskar et al., "CTRL" (2019): tokens of prompt and output, whatever their sign, lose."""
    ids = torch.tensor(list(set(sequence.tokens)), device=logits.device)
    found, penalty = logits[ids], sequence.sampling.repetition_penalty
    logits[ids] = torch.where(found < 0, found * penalty, found / penalty)


def _penalize_presence(logits: Tensor, sequence: Sequence) -> None:
    """OpenAI's pair: once for each token in the output, and once more for each occurrence."""
    sampling = sequence.sampling
    occurrences = Counter(sequence.tokens[sequence.num_prompt :])
    if occurrences:
        counts = torch.tensor(list(occurrences.values()), device=logits.device)
        losses = counts * sampling.frequency_penalty + sampling.presence_penalty
        logits[list(occurrences)] -= losses


def _ban_stops(logits: Tensor, sequence: Sequence, eos_token_ids: frozenset[int]) -> None:
    stops = set(sequence.sampling.stop_token_ids)
    if not sequence.sampling.ignore_eos:
        stops |= eos_token_ids
    logits[[id for id in stops if 0 <= id < len(logits)]] = float("-inf")
