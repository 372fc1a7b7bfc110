"""What the decoder asks of attention, whichever kernels do it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import msgspec
from torch import Tensor


class SequenceRows(msgspec.Struct, frozen=True, gc=False):
    """Tokens [start, end) of one sequence, to be computed now; `blocks` cover tokens [0, end)."""

    start: int
    count: int
    blocks: Seq[int]

    @property
    def end(self) -> int:
        return self.start + self.count

    def begun(self, block_size: int) -> Seq[int]:
        """The blocks whose first tokens are among these."""
        return self.blocks[-(-self.start // block_size) : -(-self.end // block_size)]


def places_of(spans: Seq[SequenceRows], block_size: int) -> list[list[int]]:
    """The blocks of all tokens of the spans, and their slots within them."""
    blocks = [s.blocks[p // block_size] for s in spans for p in range(s.start, s.end)]
    slots = [p % block_size for s in spans for p in range(s.start, s.end)]
    return [blocks, slots]


class AttentionBatch(Protocol):
    """One step's spans, prepared: everything that does not change from layer to layer."""

    spans: Seq[SequenceRows]
    cache: Tensor
    """[blocks, layers, 2, kv_heads, block_size, head_size]"""
    scales: Tensor | None
    """Of its values, float32 [blocks, layers, 2, kv_heads], where they have some."""

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Blocks and slots of the step's tokens, int64 [tokens] each."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the step's keys and values, and let every token see its sequence up to itself.

        query [tokens, heads, head_size], key and value [tokens, kv_heads, head_size]
        -> [tokens, heads, head_size]; tokens lie in the order of the spans.
        """
        ...

    def read(self, layer: int, query: Tensor) -> Tensor:
        """The same when the keys and values are in their places already."""
        ...


class AttentionBackend(Protocol):
    """Bound to one KV cache and one model's heads and windows."""

    def prepare(self, spans: Seq[SequenceRows]) -> AttentionBatch: ...


class GraphAttention(Protocol):
    """Attention of decode steps that are recorded once, and repeated."""

    def width(self, num_blocks: int, most: int) -> int:
        """How many rows tables need that have so many; each number is recorded for itself."""
        ...

    def batch(self, tables: Tensor, positions: Tensor) -> AttentionBatch:
        """A token a row: block tables int32 [width, rows], positions int64 [rows].

        Their content may change between repetitions, their address not.
        """
        ...

    def plan(self, spans: Seq[SequenceRows]) -> None:
        """Before a step of these spans is recorded or repeated."""
        ...
