"""Draws on a GPU by kernels of our own, with what each row asks for sent in one copy."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.device.to_device import to_device_together
from engine.sampler.noise import draw_key
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams

if TYPE_CHECKING:
    from engine.cuda.sampling import RowSettings


def draw_on_device(logits: Tensor, sequences: Seq[Sequence]) -> Tensor:
    """Token ids int64 [rows], the argmax in greedy rows; float32 `logits` [rows, vocab_size] do
    not change. Needs Triton.

    The tokens are those that a CPU draws from equal logits. What may differ is a tie within a few
    roundings of float64, between two tokens or between a nucleus's mass and top_p.
    """
    from engine.cuda.sampling import draw_tokens  # Triton is not everywhere

    return draw_tokens(logits, row_settings(sequences, logits.shape[1], logits.device))


def compile_draws(vocab_size: int, device: torch.device) -> None:
    """Draw once, so that no request waits for the kernels to be compiled. Needs Triton."""
    sampling = SamplingParams(max_tokens=1, top_k=1, top_p=0.5)
    logits = torch.zeros(1, vocab_size, device=device)
    draw_on_device(logits, [Sequence(AttemptId("warm-up"), [0], sampling)])


def row_settings(sequences: Seq[Sequence], vocab_size: int, device: torch.device) -> RowSettings:
    """What the sequences of a batch's rows ask for, copied to the device at once."""
    from engine.cuda.sampling import RowSettings

    sampled = [None if s.sampling.greedy else s.sampling for s in sequences]
    keys = [draw_key(s.sampling.seed, s.num_tokens) for s in sequences]
    columns: list[NDArray[Any]] = [
        np.array([0.0 if p is None else p.temperature for p in sampled], np.float32),
        np.array(keys, np.uint64).view(np.int64),
        np.array([_limit(p) for p in sampled], np.float32),
    ]
    top_ks = np.array([_top_k(p, vocab_size) for p in sampled], np.int32)
    top_ps = np.array([1.0 if p is None else p.top_p for p in sampled], np.float64)
    if top_ks.any() or (top_ps < 1.0).any():
        columns += [top_ks, top_ps]
    return RowSettings(*to_device_together(columns, device))


def _limit(params: SamplingParams | None) -> float:
    """How far below the best logit min-p still keeps a token, in units of the temperature."""
    if params is None or params.min_p == 0.0:
        return math.inf
    return abs(math.log(params.min_p))


def _top_k(params: SamplingParams | None, vocab_size: int) -> int:
    if params is None or params.top_k is None or params.top_k >= vocab_size:
        return 0
    return params.top_k
