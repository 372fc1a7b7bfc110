"""Changes to the logits that follow from what a sequence already holds."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from torch import Tensor

from engine.sampler.edits import LogitEdits, add, ban, restrict, scale, subtract
from engine.sampler.token_counts import SequenceCounts
from engine.sequence import Sequence
from wire.sampling import TokenRules


class Penalties:
    """Applies what sequences ask for to a batch's logits.

    It remembers which tokens the last batch's sequences hold, so that a step counts only new ones.
    """

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self._eos_token_ids = eos_token_ids
        self._counts: dict[int, SequenceCounts] = {}

    def apply(self, logits: Tensor, sequences: Seq[Sequence]) -> None:
        """Change contiguous `logits` [rows, vocab_size] in place, each penalty on top of the ones
        before, with one copy to the device."""
        changed = [(row, s) for row, s in enumerate(sequences) if _changes_logits(s)]
        before, self._counts = self._counts, {}
        if not changed:
            return
        edits = LogitEdits(logits.shape[1])
        for row, sequence in changed:
            counts = before.get(id(sequence))
            if counts is None or counts.sequence is not sequence:
                counts = SequenceCounts(sequence)
            self._counts[id(sequence)] = counts
            _plan_penalties(edits, row, counts)
            if sequence.sampling.rules is not None:
                _plan_rules(edits, row, sequence, sequence.sampling.rules)
            if _is_short(sequence):
                edits.plan(ban, row, self._stops(sequence, logits.shape[1]))
        edits.apply(logits)

    def _stops(self, sequence: Sequence, vocab_size: int) -> list[int]:
        stops = set(sequence.sampling.stop_token_ids)
        if not sequence.sampling.ignore_eos:
            stops |= self._eos_token_ids
        return [id for id in stops if 0 <= id < vocab_size]


def _changes_logits(sequence: Sequence) -> bool:
    sampling = sequence.sampling
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sampling.rules is not None
        or (sampling.min_tokens > 0 and _is_short(sequence))
    )


def _plan_penalties(edits: LogitEdits, row: int, counts: SequenceCounts) -> None:
    """Repetition: Keskar et al., "CTRL" (2019): tokens of prompt and output, whatever their sign,
    lose. Presence and frequency are OpenAI's pair: once for each token in the output, and once more
    for each occurrence."""
    sampling = counts.sequence.sampling
    if sampling.repetition_penalty != 1.0:
        ids = counts.of_all().ids
        edits.plan(scale, row, ids, np.full(len(ids), sampling.repetition_penalty, np.float32))
    if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0:
        output = counts.of_output()
        losses = output.counts.astype(np.float32) * np.float32(sampling.frequency_penalty)
        edits.plan(subtract, row, output.ids, losses + np.float32(sampling.presence_penalty))


def _plan_rules(edits: LogitEdits, row: int, sequence: Sequence, rules: TokenRules) -> None:
    if rules.bias:
        gains = dict(rules.bias)
        edits.plan(add, row, list(gains), np.array(list(gains.values()), np.float32))
    if rules.allowed is not None:
        edits.plan(restrict, row, rules.allowed, np.array([row]))
    banned = [run[-1] for run in rules.banned if _would_end(sequence, run)]
    if banned:
        edits.plan(ban, row, banned)


def _would_end(sequence: Sequence, run: tuple[int, ...]) -> bool:
    """True when the output ends with all of the run but its last token."""
    before = len(run) - 1
    if sequence.num_output < before:
        return False
    return tuple(sequence.tokens[len(sequence.tokens) - before :]) == run[:-1]


def _is_short(sequence: Sequence) -> bool:
    """True when the token that is drawn now may not be the last one."""
    return sequence.num_tokens - sequence.num_prompt < sequence.sampling.min_tokens
