"""Draws tokens on a GPU: engine.sampler's definition of a draw, by the kernels beside this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.cuda import draw_kernels, limit_kernels

BLOCK = 4096
"""Tokens that one program races."""
ROOM = 2048
"""Tokens of a row that are bisected in registers."""


@dataclass(frozen=True, slots=True)
class RowSettings:
    """What each row of a batch asks for; tensors [rows] on the device.

    `temperatures` float32, 0 for the best token; `keys` int64, the names of the draws; `limits`
    float32, the largest distance that min-p keeps; `top_ks` int32, 0 for all; `top_ps` float64, 1
    for all. The last two are None where no row has them.
    """

    temperatures: Tensor
    keys: Tensor
    limits: Tensor
    top_ks: Tensor | None = None
    top_ps: Tensor | None = None


def draw_tokens(logits: Tensor, settings: RowSettings) -> Tensor:
    """Token ids int64 [rows] drawn from float32 `logits` [rows, vocab_size], which do not change.

    `settings.limits` is overwritten.
    """
    assert logits.dtype == torch.float32, f"logits are {logits.dtype}"
    assert logits.stride(1) == 1, f"a row's logits lie {logits.stride(1)} apart"
    tops = logits.amax(-1)
    if settings.top_ks is not None and settings.top_ps is not None:
        _find_limits(logits, tops, settings, settings.top_ks, settings.top_ps)
    rows, splits = _grid(logits)
    places = torch.empty(rows, splits, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    given = logits, tops, settings.temperatures, settings.limits, settings.keys, places
    draw_kernels.race[(rows, splits)](
        *given, logits.stride(0), logits.shape[1], BLOCK=BLOCK, num_warps=8
    )
    draw_kernels.settle[(rows,)](
        *given,
        tokens,
        logits.stride(0),
        splits,
        PADDED_SPLITS=_padded(splits),
        num_warps=1,
    )
    return tokens


def _find_limits(
    logits: Tensor,
    tops: Tensor,
    settings: RowSettings,
    top_ks: Tensor,
    top_ps: Tensor,
) -> None:
    """Lower the limits of rows with top-k or top-p."""
    rows, splits = _grid(logits)
    device, vocab_size = logits.device, logits.shape[1]
    counts = torch.empty(rows, 4, splits, dtype=torch.int32, device=device)
    masses = torch.empty(rows, 4, splits, dtype=torch.float64, device=device)
    totals = torch.empty(rows, splits, dtype=torch.float64, device=device)
    candidates = torch.empty(rows, ROOM, dtype=torch.int32, device=device)
    given = logits, tops, settings.temperatures, top_ks, top_ps, counts, masses, totals
    limit_kernels.measure[(rows, splits)](
        *given, logits.stride(0), vocab_size, SPAN=BLOCK, TILE=min(BLOCK, 512), num_warps=4
    )
    limit_kernels.find_limits[(rows,)](
        *given,
        candidates,
        settings.limits,
        logits.stride(0),
        vocab_size,
        splits,
        PADDED_SPLITS=_padded(splits),
        TILE=min(BLOCK, 512),
        ROOM=ROOM,
        num_warps=16,
    )


def _grid(logits: Tensor) -> tuple[int, int]:
    rows, vocab_size = logits.shape
    return rows, -(-vocab_size // BLOCK)


def _padded(splits: int) -> int:
    """At least 64, so that vocabularies up to 262,144 tokens share their compiled kernels."""
    return max(64, 1 << (splits - 1).bit_length())
