"""Changes to the logits that follow from what a sequence already holds."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from engine.device.to_device import to_device
from engine.sequence import Sequence
from wire.sampling import TokenRules


def changes_logits(sequence: Sequence) -> bool:
    """True when `penalize` would do something."""
    sampling = sequence.sampling
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sampling.rules is not None
        or (sampling.min_tokens > 0 and _is_short(sequence))
    )


def penalize(logits: Tensor, sequence: Sequence, eos_token_ids: frozenset[int]) -> None:
    """Change `logits` [vocab_size] in place, each penalty on top of the ones before."""
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1.0:
        _penalize_repetition(logits, sequence)
    if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0:
        _penalize_presence(logits, sequence)
    if sampling.rules is not None:
        _apply_rules(logits, sampling.rules, sequence)
    if _is_short(sequence):
        _ban_stops(logits, sequence, eos_token_ids)


def _penalize_repetition(logits: Tensor, sequence: Sequence) -> None:
    """Keskar et al., "CTRL" (2019): tokens of prompt and output, whatever their sign, lose."""
    ids = to_device(list(set(sequence.tokens)), logits.device)
    found, penalty = logits[ids], sequence.sampling.repetition_penalty
    logits[ids] = torch.where(found < 0, found * penalty, found / penalty)


def _penalize_presence(logits: Tensor, sequence: Sequence) -> None:
    """OpenAI's pair: once for each token in the output, and once more for each occurrence."""
    sampling = sequence.sampling
    occurrences = Counter(sequence.tokens[sequence.num_prompt :])
    if occurrences:
        counts = to_device(list(occurrences.values()), logits.device)
        losses = counts * sampling.frequency_penalty + sampling.presence_penalty
        logits[to_device(list(occurrences), logits.device)] -= losses


def _apply_rules(logits: Tensor, rules: TokenRules, sequence: Sequence) -> None:
    if rules.bias:
        ids, values = zip(*rules.bias, strict=True)
        logits[to_device(ids, logits.device)] += to_device(values, logits.device, torch.float32)
    if rules.allowed is not None:
        allowed = to_device(rules.allowed, logits.device)
        kept = logits[allowed]
        logits.fill_(float("-inf"))
        logits[allowed] = kept
    banned = [run[-1] for run in rules.banned if _would_end(sequence, run)]
    if banned:
        _ban(logits, banned)


def _would_end(sequence: Sequence, run: tuple[int, ...]) -> bool:
    """True when the output ends with all of the run but its last token."""
    before = len(run) - 1
    if sequence.num_output < before:
        return False
    return tuple(sequence.tokens[len(sequence.tokens) - before :]) == run[:-1]


def _is_short(sequence: Sequence) -> bool:
    """True when the token that is drawn now may not be the last one."""
    return sequence.num_tokens - sequence.num_prompt < sequence.sampling.min_tokens


def _ban_stops(logits: Tensor, sequence: Sequence, eos_token_ids: frozenset[int]) -> None:
    stops = set(sequence.sampling.stop_token_ids)
    if not sequence.sampling.ignore_eos:
        stops |= eos_token_ids
    _ban(logits, [id for id in stops if 0 <= id < len(logits)])


def _ban(logits: Tensor, ids: list[int]) -> None:
    logits.index_fill_(0, to_device(ids, logits.device), float("-inf"))
