"""From a step's logits to its tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.runner import Sampled
from engine.sampler.filters import apply_filters
from engine.sampler.noise import draw_key, exponential_noise
from engine.sampler.penalties import changes_logits, penalize
from engine.sequence import Sequence
from wire.sampling import TokenLogprob


class Sampler:
    """Stateless: a token follows from its row of logits and from its sequence alone."""

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self._eos_token_ids = eos_token_ids

    def sample(self, logits: Tensor, sequences: Seq[Sequence]) -> list[Sampled]:
        """One token a row of float32 `logits` [rows, vocab_size], which may be overwritten."""
        wanted = [i for i, s in enumerate(sequences) if s.sampling.logprobs is not None]
        raw = logits[wanted].log_softmax(-1) if wanted else None
        for row, sequence in enumerate(sequences):
            if changes_logits(sequence):
                penalize(logits[row], sequence, self._eos_token_ids)
        chosen = self._choose(logits, sequences)
        sampled = [Sampled(token) for token in chosen.tolist()]
        if raw is not None:
            described = _describe(raw, chosen[wanted], [sequences[i] for i in wanted])
            for row, logprob in zip(wanted, described, strict=True):
                sampled[row] = Sampled(sampled[row].token, logprob)
        return sampled

    def _choose(self, logits: Tensor, sequences: Seq[Sequence]) -> Tensor:
        """Token ids [rows]: the best ones, with drawn ones in the rows that are not greedy."""
        chosen = best(logits)
        random = [i for i, sequence in enumerate(sequences) if not sequence.sampling.greedy]
        if random:
            chosen[random] = _draw(logits[random], [sequences[i] for i in random])
        return chosen


def best(logits: Tensor) -> Tensor:
    """The first of the largest of each row, [rows]."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.numpy().argmax(-1))  # on a CPU ten times as fast as torch's


def _draw(logits: Tensor, sequences: Seq[Sequence]) -> Tensor:
    """Token ids [rows], drawn by an exponential race: the largest p / Exp(1) wins.

    Each token runs with its own noise, so that filters change who takes part and nothing else,
    and logits that differ by rounding differ in a draw only when two tokens tie.
    """
    params = [sequence.sampling for sequence in sequences]
    temperatures = torch.tensor([p.temperature for p in params], device=logits.device)
    # Relative to the best, since a tiny temperature would overflow the logits themselves.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperatures[:, None]
    apply_filters(scaled, params)
    keys = [draw_key(s.sampling.seed, len(s.tokens)) for s in sequences]
    noise = exponential_noise(keys, logits.shape[1], logits.device)
    return (scaled.double().softmax(-1) / noise).argmax(-1)


def _describe(logprobs: Tensor, chosen: Tensor, sequences: Seq[Sequence]) -> list[TokenLogprob]:
    """Log-probabilities of the `chosen` [rows] and of the best beside them, from [rows, vocab]."""
    counts = [sequence.sampling.logprobs or 0 for sequence in sequences]
    best = logprobs.topk(min(max(counts), logprobs.shape[1]), dim=-1)
    own = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    rows = zip(own, best.indices.tolist(), best.values.tolist(), counts, strict=True)
    return [
        TokenLogprob(logprob, tuple(ids[:count]), tuple(values[:count]))
        for logprob, ids, values, count in rows
    ]
