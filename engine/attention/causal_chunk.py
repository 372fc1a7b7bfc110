"""Spans of many tokens that see all before them, in one call of PyTorch's flash attention."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cache as once

import torch
from torch import Tensor
from torch.nn import functional

from engine.attention.backend import SequenceRows
from engine.attention.paged_cache import PagedCache
from engine.attention.prefill_chunk import by_kv_head


@dataclass(frozen=True, slots=True)
class CausalChunk:
    """Queries [begin, end) of the step, the last of `num_keys` tokens that were gathered."""

    begin: int
    end: int
    num_keys: int
    reading: Tensor

    def attend(self, cache: PagedCache, layer: int, query: Tensor, output: Tensor) -> None:
        """Fill `output` at the span from `query`, both [tokens, heads, head_size]."""
        read = cache.gather(layer, self.reading)
        keys, values = (part[0][:, None, : self.num_keys] for part in read)
        grouped = by_kv_head(query[self.begin : self.end], cache.num_kv_heads)
        shape = (-1, grouped.shape[1], -1, -1)
        order = _causal_order()(self.end - self.begin, self.num_keys)
        attended = functional.scaled_dot_product_attention(
            grouped, keys.expand(shape), values.expand(shape), attn_mask=order
        )
        output[self.begin : self.end] = attended.permute(2, 0, 1, 3).flatten(1, 2)


@once
def _causal_order() -> Callable[[int, int], Tensor]:
    """Of the last so many queries among so many keys; its module takes a second to load."""
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right


def load_flash_attention() -> None:
    """Now, and not when the first prompt comes."""
    _causal_order()


def has_flash_attention(cache: PagedCache, window: int | None) -> bool:
    """True where it is to be had, which knows no windows."""
    narrow = cache.dtype in (torch.bfloat16, torch.float16)
    return cache.device.type == "cuda" and narrow and window is None


def plan_causal_chunks(
    chunks: Seq[tuple[int, SequenceRows]], cache: PagedCache
) -> list[CausalChunk]:
    """Chunks of (index of the first token, span)."""
    planned = []
    for first, span in chunks:
        table = list(span.blocks[: cache.num_blocks_for(span.end)])
        reading = cache.reading(cache.tensor([table]))
        planned.append(CausalChunk(first, first + span.count, span.end, reading))
    return planned
