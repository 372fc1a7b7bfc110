"""The attention interface of the decoder, for all backends."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import msgspec
import numpy as np
from torch import Tensor


class SequenceRows(msgspec.Struct, frozen=True, gc=False):
    """One sequence's rows of a step: its tokens [start, end); `blocks` cover tokens [0, end)."""

    start: int
    count: int
    blocks: Seq[int]

    @property
    def end(self) -> int:
        return self.start + self.count

    def begun(self, block_size: int) -> Seq[int]:
        """The blocks whose first tokens are among these rows."""
        return self.blocks[-(-self.start // block_size) : -(-self.end // block_size)]


def token_slots_of(sequences: Seq[SequenceRows], block_size: int) -> list[list[int]]:
    """Blocks of all tokens of the step, and their slots within those: [2, tokens]."""
    blocks = [s.blocks[p // block_size] for s in sequences for p in range(s.start, s.end)]
    slots = [p % block_size for s in sequences for p in range(s.start, s.end)]
    return [blocks, slots]


class AttentionBatch(Protocol):
    """One step, prepared: everything that does not change from layer to layer."""

    sequences: Seq[SequenceRows]
    cache: Tensor
    """[blocks, layers, 2, kv_heads, block_size, head_size]"""
    scales: Tensor | None
    """Scales of the cache's values, float32 [blocks, layers, 2, kv_heads]; None without scales."""

    @property
    def token_slots(self) -> tuple[Tensor, Tensor]:
        """Blocks and slots of the step's tokens, int64 [tokens] each."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the step's keys and values, and let every token see its sequence up to itself.

        query [tokens, heads, head_size], key and value [tokens, kv_heads, head_size]
        -> [tokens, heads, head_size]; tokens lie in the order of the sequences.
        """
        ...

    def read(self, layer: int, query: Tensor) -> Tensor:
        """`attend` when the step's keys and values are in the cache already."""
        ...


class AttentionBackend(Protocol):
    """Attention over one KV cache, with one model's heads and sliding windows."""

    def prepare(self, sequences: Seq[SequenceRows]) -> AttentionBatch: ...


class GraphAttention(Protocol):
    """Attention of decode steps that are captured in CUDA graphs."""

    def width(self, num_blocks: int, most: int) -> int:
        """Rows of block tables for a step that needs `num_blocks`; a graph is captured for each."""
        ...

    def batch(self, tables: Tensor, positions: Tensor) -> AttentionBatch:
        """A token a row: block tables int32 [width, rows], positions int64 [rows].

        Their content may change between replays, their address not.
        """
        ...

    def plan(self, ends: np.ndarray, tables: np.ndarray) -> None:
        """Prepare a step before it is captured or replayed: the number of tokens that each row
        sees, int64 [rows], and its blocks, int32 [at least as many as those need, rows]."""
        ...
