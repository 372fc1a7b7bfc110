"""Which tokens may be drawn: top-k, then top-p of what is left, then min-p.

Each filter is a threshold on a row's logits, so that tokens of equal logits stay or go together
and the outcome depends neither on the order in which a device sorts ties nor on other rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from wire.sampling import SamplingParams

_NUCLEUS_GUESS = 1024
"""Most nuclei are smaller, and finding the largest 1024 logits is far cheaper than sorting all."""


def apply_filters(logits: Tensor, params: Seq[SamplingParams]) -> None:
    """Set excluded tokens of `logits` [rows, vocab_size] to minus infinity, in place."""
    vocab_size = logits.shape[1]
    by_count = {i: p.top_k for i, p in enumerate(params) if p.top_k and p.top_k < vocab_size}
    if by_count:
        rows = list(by_count)
        _exclude(logits, rows, _top_k_thresholds(logits[rows], list(by_count.values())))
    by_mass = {i: p.top_p for i, p in enumerate(params) if p.top_p < 1.0}
    if by_mass:
        rows = list(by_mass)
        _exclude(logits, rows, _top_p_thresholds(logits[rows], list(by_mass.values())))
    by_ratio = {i: math.log(p.min_p) for i, p in enumerate(params) if p.min_p > 0.0}
    if by_ratio:
        rows = list(by_ratio)
        ratios = torch.tensor(list(by_ratio.values()), device=logits.device)
        _exclude(logits, rows, logits[rows].amax(-1) + ratios)


def _exclude(logits: Tensor, rows: list[int], thresholds: Tensor) -> None:
    kept = logits[rows]
    logits[rows] = kept.masked_fill(kept < thresholds[:, None], float("-inf"))


def _top_k_thresholds(logits: Tensor, counts: list[int]) -> Tensor:
    """The count-th largest logit of each row, [rows]."""
    largest = logits.topk(max(counts), dim=-1).values
    index = torch.tensor(counts, device=logits.device)[:, None] - 1
    return largest.gather(-1, index)[:, 0]


def _top_p_thresholds(logits: Tensor, masses: list[float]) -> Tensor:
    """The smallest logit of the fewest tokens whose probabilities reach the mass, [rows]."""
    wanted = torch.tensor(masses, dtype=torch.float64, device=logits.device)[:, None]
    total = logits.double().logsumexp(-1, keepdim=True)
    largest = logits.topk(min(_NUCLEUS_GUESS, logits.shape[1]), dim=-1).values
    reached = (largest.double() - total).exp().cumsum(-1)
    if bool((reached[:, -1:] < wanted).any()):
        largest = logits.sort(dim=-1, descending=True).values
        reached = (largest.double() - total).exp().cumsum(-1)
    index = (reached < wanted).sum(-1, keepdim=True).clamp(max=largest.shape[1] - 1)
    return largest.gather(-1, index)[:, 0]
