"""Sampling: from a step's logits to its tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.to_device import PendingHostCopy, to_device
from engine.device.triton_available import uses_triton
from engine.grammar.masks import apply_masks
from engine.runner import Sampled
from engine.sampler.device_draw import compile_draws, draw_on_device
from engine.sampler.filters import apply_filters
from engine.sampler.noise import draw_key, exponential_noise
from engine.sampler.penalties import Penalties
from engine.sequence import Sequence
from wire.sampling import TokenLogprob


class Sampler:
    """A token follows from its row of logits and from its sequence alone."""

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self._penalties = Penalties(eos_token_ids)

    def warm_up(self, vocab_size: int, device: torch.device) -> None:
        """Compile what `draw` launches, if anything."""
        if uses_triton(device):
            compile_draws(vocab_size, device)

    def sample(self, logits: Tensor, sequences: Seq[Sequence]) -> list[Sampled]:
        """One token a row of float32 `logits` [rows, vocab_size], which may be overwritten."""
        return self.draw(logits, sequences).collect()

    def draw(self, logits: Tensor, sequences: Seq[Sequence]) -> PendingDraws:
        """`sample` without waiting for the device before `collect`."""
        if all(sequence.takes_best for sequence in sequences):
            chosen = best(logits)
            return PendingDraws(chosen, {}, PendingHostCopy(chosen.device, chosen))
        wanted = [i for i, s in enumerate(sequences) if s.sampling.logprobs is not None]
        raw = _rows(logits, wanted).log_softmax(-1) if wanted else None
        self._penalties.apply(logits, sequences)
        apply_masks(logits, sequences)
        chosen = self._choose(logits, sequences)
        if raw is None:
            return PendingDraws(chosen, {}, PendingHostCopy(chosen.device, chosen))
        counts = {i: sequences[i].sampling.logprobs or 0 for i in wanted}
        described = describe(raw, _rows(chosen, wanted), max(counts.values()))
        return PendingDraws(chosen, counts, PendingHostCopy(chosen.device, chosen, *described))

    def _choose(self, logits: Tensor, sequences: Seq[Sequence]) -> Tensor:
        """Token ids [rows]: the argmax in greedy rows, drawn ones in others."""
        random = [i for i, sequence in enumerate(sequences) if not sequence.sampling.greedy]
        if random and uses_triton(logits.device):
            return draw_on_device(logits, sequences)
        if len(random) == len(sequences):
            return _draw(logits, sequences)
        chosen = best(logits)
        if random:
            drawn = _draw(_rows(logits, random), [sequences[i] for i in random])
            chosen.index_copy_(0, to_device(random, logits.device), drawn)
        return chosen


@dataclass(frozen=True, slots=True)
class PendingDraws:
    """Drawn `tokens` [rows] on the device; `counts`: row -> number of log-probabilities."""

    tokens: Tensor
    counts: dict[int, int]
    host_copy: PendingHostCopy

    def collect(self) -> list[Sampled]:
        """Wait for the copies to the host."""
        tokens, *described = (tensor.tolist() for tensor in self.host_copy.wait())
        sampled = [Sampled(token) for token in tokens]
        if self.counts:
            rows = zip(self.counts.items(), *described, strict=True)
            for (row, count), own, ids, values in rows:
                logprob = TokenLogprob(own, tuple(ids[:count]), tuple(values[:count]))
                sampled[row] = Sampled(tokens[row], logprob)
        return sampled


def best(logits: Tensor) -> Tensor:
    """The argmax of each row, the first where several are equal, [rows]."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.numpy().argmax(-1))  # on a CPU ten times as fast as torch's


def _draw(logits: Tensor, sequences: Seq[Sequence]) -> Tensor:
    """Token ids [rows], drawn by an exponential race: the largest p / Exp(1) wins.

    Each token runs with its own noise, so that filters change who takes part and nothing else,
    and logits that differ by rounding differ in a draw only when two tokens tie.
    """
    params = [sequence.sampling for sequence in sequences]
    temperatures = to_device([p.temperature for p in params], logits.device, torch.float32)
    # Relative to the best, since a tiny temperature would overflow the logits themselves.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperatures[:, None]
    apply_filters(scaled, params)
    keys = [draw_key(s.sampling.seed, s.num_tokens) for s in sequences]
    noise = exponential_noise(keys, logits.shape[1], logits.device)
    return (scaled.double().softmax(-1) / noise).argmax(-1)


def describe(logprobs: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the `chosen` [rows], and the best tokens with theirs, [rows, count]."""
    best = logprobs.topk(min(count, logprobs.shape[1]), dim=-1)
    return logprobs.gather(-1, chosen[:, None])[:, 0], best.indices, best.values


def _rows(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor.index_select(0, to_device(rows, tensor.device))
