"""Which tokens may be drawn: top-k, then top-p of what is left, then min-p.

Each filter is a threshold on a row's logits, so that tokens of equal logits stay or go together
and the outcome depends neither on the order in which a device sorts ties nor on other rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.device.to_device import to_device
from wire.sampling import SamplingParams

_NUCLEUS_GUESS = 1024
"""Most nuclei are smaller, and finding the largest 1024 logits is far cheaper than sorting all."""


def apply_filters(logits: Tensor, params: Seq[SamplingParams]) -> None:
    """Set excluded tokens of `logits` [rows, vocab_size] to minus infinity, in place."""
    vocab_size = logits.shape[1]
    by_count = {i: p.top_k for i, p in enumerate(params) if p.top_k and p.top_k < vocab_size}
    if by_count:
        rows = list(by_count)
        counts = list(by_count.values())
        _exclude(logits, rows, lambda kept: _top_k_thresholds(kept, counts))
    by_mass = {i: p.top_p for i, p in enumerate(params) if p.top_p < 1.0}
    if by_mass:
        rows = list(by_mass)
        masses = list(by_mass.values())
        _exclude(logits, rows, lambda kept: _top_p_thresholds(kept, masses))
    by_ratio = {i: math.log(p.min_p) for i, p in enumerate(params) if p.min_p > 0.0}
    if by_ratio:
        rows = list(by_ratio)
        ratios = to_device(list(by_ratio.values()), logits.device, torch.float32)
        _exclude(logits, rows, lambda kept: kept.amax(-1) + ratios)


def _exclude(logits: Tensor, rows: list[int], threshold: Callable[[Tensor], Tensor]) -> None:
    """Exclude logits below their row's threshold; without a copy when all rows are filtered."""
    if len(rows) == len(logits):
        logits.masked_fill_(logits < threshold(logits)[:, None], float("-inf"))
        return
    index = to_device(rows, logits.device)
    kept = logits.index_select(0, index)
    kept.masked_fill_(kept < threshold(kept)[:, None], float("-inf"))
    logits.index_copy_(0, index, kept)


def _top_k_thresholds(logits: Tensor, counts: list[int]) -> Tensor:
    """The count-th largest logit of each row, [rows]."""
    largest = logits.topk(max(counts), dim=-1).values
    index = to_device(counts, logits.device)[:, None] - 1
    return largest.gather(-1, index)[:, 0]


def _top_p_thresholds(logits: Tensor, masses: list[float]) -> Tensor:
    """The smallest logit of the fewest tokens whose probabilities reach the mass, [rows]."""
    wanted = to_device(masses, logits.device, torch.float64)[:, None]
    total = logits.double().logsumexp(-1, keepdim=True)
    # Another device would have to be waited for, to be asked whether a guess was enough.
    vocab_size = logits.shape[1]
    count = min(_NUCLEUS_GUESS, vocab_size) if logits.device.type == "cpu" else vocab_size
    largest, reached = _best_first(logits, total, count)
    if count < vocab_size and bool((reached[:, -1:] < wanted).any()):
        largest, reached = _best_first(logits, total, vocab_size)
    index = (reached < wanted).sum(-1, keepdim=True).clamp(max=largest.shape[1] - 1)
    return largest.gather(-1, index)[:, 0]


def _best_first(logits: Tensor, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest logits of each row, sorted, and what their probabilities add up to."""
    if count < logits.shape[1]:
        largest = logits.topk(count, dim=-1).values
    else:
        largest = logits.sort(dim=-1, descending=True).values
    return largest, (largest.double() - total).exp().cumsum(-1)
