"""Prefill chunks of several sequences in one call of PyTorch's variable-length flash attention.

The keys and values that the chunks see are gathered side by side, whole blocks of one sequence
after the other. (Dao, "FlashAttention-2", 2023; torch.nn.attention.varlen)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cache as once
from itertools import accumulate

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.attention.paged_cache import PagedCache
from engine.attention.step_rows import PlacedRows, row_index
from engine.device.to_device import to_device

MOST_KEYS = 1 << 16
"""Tokens whose keys are gathered for one call, unless one sequence has more: of an 8B model 256 MB
of keys and values."""


@dataclass(frozen=True, slots=True)
class VarlenChunks:
    """Chunks that attend in one call; `rows` is a slice where they are neighbours.

    `query_starts` and `key_starts` int32 [chunks + 1]: each chunk's first query, and its first
    gathered key; `num_keys` int32 [chunks]: how many of these its sequence has. A chunk's last
    query sees its last key.
    """

    rows: slice | Tensor
    gather_index: Tensor
    query_starts: Tensor
    key_starts: Tensor
    num_keys: Tensor
    most_queries: int
    most_keys: int
    window: int | None

    def attend(self, cache: PagedCache, layer: int, query: Tensor, output: Tensor) -> None:
        """Fill `output` at the chunks' rows from `query`, both [tokens, heads, head_size]."""
        gathered = cache.gather(layer, self.gather_index)
        keys, values = (part[0].transpose(0, 1) for part in gathered)
        whole = isinstance(self.rows, slice)
        attended = output[self.rows] if whole else query.new_empty(query[self.rows].shape)
        _varlen()(
            attended,
            query[self.rows],
            keys,
            values,
            self.query_starts,
            self.key_starts,
            self.most_queries,
            self.most_keys,
            # Flash attention counts the tokens to the left of a query.
            window_size=(-1 if self.window is None else self.window - 1, 0),
            enable_gqa=True,
            seqused_k=self.num_keys,
        )
        if not whole:
            output[self.rows] = attended


@once
def _varlen() -> Callable[..., object]:
    """PyTorch's function, whose module takes seconds to import."""
    from torch.nn.attention.varlen import varlen_attn_out

    return varlen_attn_out


def load_varlen() -> None:
    """Import it now, not when the first prompt comes."""
    _varlen()


def varlen_serves(dtype: torch.dtype, head_size: int, capability: tuple[int, int]) -> bool:
    """True where flash attention has kernels: it computes in 16 bits, from Ampere on."""
    narrow = dtype in (torch.bfloat16, torch.float16)
    return narrow and capability >= (8, 0) and head_size % 8 == 0 and head_size <= 256


def plan_varlen_chunks(
    chunks: Seq[PlacedRows], window: int | None, cache: PagedCache
) -> list[VarlenChunks]:
    """One call for all `chunks`, or a few where their keys are too many to gather at once."""
    return [_plan_call(call, window, cache) for call in _calls(chunks, window, cache)]


def _calls(
    chunks: Seq[PlacedRows], window: int | None, cache: PagedCache
) -> Iterator[list[PlacedRows]]:
    call, num_keys = list[PlacedRows](), 0
    for chunk in chunks:
        seen = len(_seen_blocks(chunk[1], window, cache)) * cache.block_size
        if call and num_keys + seen > MOST_KEYS:
            yield call
            call, num_keys = [], 0
        call.append(chunk)
        num_keys += seen
    if call:
        yield call


def _seen_blocks(sequence: SequenceRows, window: int | None, cache: PagedCache) -> Seq[int]:
    """The blocks that a chunk's queries see into."""
    first = _first_block(sequence, window, cache)
    return sequence.blocks[first : cache.num_blocks_for(sequence.end)]


def _first_block(sequence: SequenceRows, window: int | None, cache: PagedCache) -> int:
    return 0 if window is None else max(0, sequence.start - window + 1) // cache.block_size


def _plan_call(call: Seq[PlacedRows], window: int | None, cache: PagedCache) -> VarlenChunks:
    size = cache.block_size
    blocks = [_seen_blocks(sequence, window, cache) for _, sequence in call]
    begins = [_first_block(sequence, window, cache) * size for _, sequence in call]
    num_queries = [sequence.count for _, sequence in call]
    num_keys = [s.end - begin for (_, s), begin in zip(call, begins, strict=True)]
    starts = [0, *accumulate(num_queries)], [0, *accumulate(len(table) * size for table in blocks)]
    query_starts, key_starts = to_device(starts, cache.device, torch.int32)
    table = [block for blocks_of_one in blocks for block in blocks_of_one]
    return VarlenChunks(
        rows=row_index(call, cache.device),
        gather_index=cache.gather_index(cache.tensor([table])),
        query_starts=query_starts,
        key_starts=key_starts,
        num_keys=to_device(num_keys, cache.device, torch.int32),
        most_queries=max(num_queries),
        most_keys=max(num_keys),
        window=window,
    )
