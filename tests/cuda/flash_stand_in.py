"""PyTorch's flash attention for sequences of various lengths, on a CPU, which has no kernel for it.

`torch.nn.attention.varlen` runs as it is; only the operation that it calls is computed here, by
the formula and with the checks of the real one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_OPERATION = "_flash_attention_forward_no_dropout_inplace"


@dataclass
class FlashCalls:
    """Numbers of sequences of each call."""

    sequences: list[int] = field(default_factory=list)


@contextmanager
def flash_on_cpu() -> Iterator[FlashCalls]:
    calls = FlashCalls()

    def attend(*arguments: Any, **settings: Any) -> Tensor:
        calls.sequences.append(len(arguments[4]) - 1)
        return _attend(*arguments, **settings)

    library = torch.library.Library("aten", "IMPL")
    library.impl(_OPERATION, attend, "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _attend(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    most_queries: int,
    most_keys: int,
    dropout: float,
    is_causal: bool,
    return_mask: bool,
    *,
    window_size_left: int,
    window_size_right: int,
    seqused_k: Tensor,
) -> Tensor:
    """See torch.nn.attention.varlen; arguments that have their default are not handed on."""
    assert (dropout, window_size_right) == (0.0, 0)
    assert is_causal == (window_size_left == -1)
    for numbers in (query_starts, key_starts, seqused_k):
        assert numbers.dtype == torch.int32
        assert numbers.is_contiguous()
    assert {tensor.stride(-1) for tensor in (out, query, key, value)} == {1}
    assert out.shape == query.shape
    assert len(key) == len(value) == key_starts[-1]
    assert len(query) == query_starts[-1]
    assert most_queries == query_starts.diff().max()
    assert most_keys == seqused_k.max()
    for number, num_keys in enumerate(seqused_k.tolist()):
        first, end = query_starts[number : number + 2].tolist()
        begin = int(key_starts[number])
        seen = slice(begin, begin + num_keys)
        assert seen.stop <= key_starts[number + 1]
        out[first:end] = _attend_one(query[first:end], key[seen], value[seen], window_size_left)
    return torch.empty(query.shape[1], len(query))


def _attend_one(query: Tensor, key: Tensor, value: Tensor, window_left: int) -> Tensor:
    """The last query sees the last key, and `window_left` keys before it, or all for -1."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[2])
    behind = (torch.arange(len(key)) - torch.arange(len(query))[:, None]) - len(key) + len(query)
    hidden = behind > 0
    if window_left >= 0:
        hidden |= behind < -window_left
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), value)
