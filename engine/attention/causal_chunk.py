"""Prefill chunks with full causal attention, by one call of PyTorch's flash attention."""

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
    gather_index: Tensor

    def attend(self, cache: PagedCache, layer: int, query: Tensor, output: Tensor) -> None:
        """Fill `output` at the chunk's rows from `query`, both [tokens, heads, head_size]."""
        read = cache.gather(layer, self.gather_index)
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
    """PyTorch's causal mask aligned at the last key; its module takes a second to import."""
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right


def load_flash_attention() -> None:
    """Import it now, not when the first prompt comes."""
    _causal_order()


def has_flash_attention(cache: PagedCache, window: int | None) -> bool:
    """True on GPUs in 16 bits; flash attention here has no sliding windows."""
    narrow = cache.dtype in (torch.bfloat16, torch.float16)
    return cache.device.type == "cuda" and narrow and window is None


def plan_causal_chunks(
    chunks: Seq[tuple[int, SequenceRows]], cache: PagedCache
) -> list[CausalChunk]:
    """`chunks` are pairs of the first row and the sequence."""
    planned = []
    for first, sequence in chunks:
        table = list(sequence.blocks[: cache.num_blocks_for(sequence.end)])
        gather_index = cache.gather_index(cache.tensor([table]))
        planned.append(CausalChunk(first, first + sequence.count, sequence.end, gather_index))
    return planned
