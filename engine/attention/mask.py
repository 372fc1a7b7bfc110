"""Attention masks: causal order and sliding windows."""

from __future__ import annotations

import torch
from torch import Tensor


def visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """True where the token at position `query` sees the one at `key`; the two broadcast.

    A token sees itself and all before it, in a window of w the last w including itself.
    """
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `seen`, minus infinity elsewhere."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))
