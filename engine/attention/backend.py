"""What the decoder asks of attention, whichever kernels do it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of one sequence, to be computed now; `blocks` cover tokens [0, end)."""

    start: int
    count: int
    blocks: Seq[int]

    @property
    def end(self) -> int:
        return self.start + self.count


class AttentionBatch(Protocol):
    """One step's spans, prepared: everything that does not change from layer to layer."""

    spans: Seq[Span]
    cache: Tensor
    """[blocks, layers, 2, kv_heads, block_size, head_size]"""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the step's keys and values, and let every token see its sequence up to itself.

        query [tokens, heads, head_size], key and value [tokens, kv_heads, head_size]
        -> [tokens, heads, head_size]; tokens lie in the order of the spans.
        """
        ...


class AttentionBackend(Protocol):
    """Bound to one KV cache and one model's heads and windows."""

    def prepare(self, spans: Seq[Span]) -> AttentionBatch: ...
