"""Attention as the formula has it, in float32, to compare kernels with."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor


def attention(
    query: Tensor, layer_cache: Tensor, blocks: Seq[int], start: int, window: int | None
) -> Tensor:
    """Attention of one sequence's tokens, which begin at `start`, over all up to each of them.

    query [tokens, heads, head_size], layer_cache [blocks, 2, kv_heads, block_size, head_size] ->
    float32 [tokens, heads, head_size].
    """
    count, num_heads, head_size = query.shape
    table = torch.tensor(blocks, device=query.device)
    kept = layer_cache[table].float().permute(1, 0, 3, 2, 4).flatten(1, 2)[:, : start + count]
    keys, values = kept.repeat_interleave(num_heads // kept.shape[2], 2)
    scores = torch.einsum("thd,khd->htk", query.float(), keys) / head_size**0.5
    own = torch.arange(start, start + count, device=query.device)[:, None]
    others = torch.arange(start + count, device=query.device)[None]
    hidden = others > own
    if window is not None:
        hidden |= others <= own - window
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("htk,khd->thd", weights, values)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    scale = expected.float().abs().max().clamp(min=1e-9)
    return float((found.float() - expected.float()).abs().max() / scale)
