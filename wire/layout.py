"""The memory layout of KV blocks, by which workers decide whether they can exchange blocks."""

from __future__ import annotations

from typing import Literal

import msgspec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int64": 8}

SCALED_DTYPES = frozenset({"float8_e4m3fn"})
"""Dtypes whose values need the float32 scales at the end of their block."""

SCALE_BYTES = 4


class KvLayout(msgspec.Struct, frozen=True):
    """A pool of blocks, block-major: [block, layer, key/value, kv_head, slot, head_size].

    One block holds `block_size` token slots of all layers and is contiguous, so that it travels as
    one descriptor; heads come before slots, so that a head's slice is contiguous too. Blocks of a
    scaled dtype end with their scales, float32 [layer, key/value, kv_head]; a value is the stored
    number times its scale.

    With several ranks the layout describes a worker whose heads are spread over them: each rank has
    a pool of its own, of the layout `of_rank`, with the same block numbers. Raises ValueError for
    sizes below 1, heads that the model lacks, and heads that cannot be spread evenly.
    """

    num_layers: int
    num_kv_heads: int
    """Number of heads in this pool."""
    head_size: int
    block_size: int
    dtype: str
    first_kv_head: int = 0
    """Index, in the model, of this pool's head 0."""
    total_kv_heads: int | None = None
    """Heads of the model; None if this pool has all of them."""
    kv_order: Literal["kv", "vk"] = "kv"
    """Whether a layer's keys come before its values ("kv") or after them."""
    num_ranks: int = 1
    """Tensor-parallel ranks over which the heads are spread; with more ranks than heads, heads are
    replicated."""

    def __post_init__(self) -> None:
        sizes = self.num_layers, self.num_kv_heads, self.head_size, self.block_size, self.num_ranks
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1: {self}")
        if self.first_kv_head < 0 or self.heads.stop > self.model_kv_heads:
            raise ValueError(f"{self.heads} is not within {self.model_kv_heads} KV heads")
        if max(self.num_kv_heads, self.num_ranks) % min(self.num_kv_heads, self.num_ranks):
            heads = f"{self.num_kv_heads} KV heads"
            raise ValueError(f"{heads} cannot be spread evenly over {self.num_ranks} ranks")

    def of_rank(self, rank: int) -> KvLayout:
        """The layout of one rank's pool."""
        if self.num_ranks == 1:
            return self
        heads = self.num_kv_heads
        return msgspec.structs.replace(
            self,
            num_kv_heads=max(1, heads // self.num_ranks),
            first_kv_head=self.first_kv_head + rank * heads // self.num_ranks,
            total_kv_heads=self.model_kv_heads,
            num_ranks=1,
        )

    @property
    def heads(self) -> range:
        """The model's KV heads in this pool."""
        return range(self.first_kv_head, self.first_kv_head + self.num_kv_heads)

    @property
    def model_kv_heads(self) -> int:
        return self.num_kv_heads if self.total_kv_heads is None else self.total_kv_heads

    @property
    def _held_heads(self) -> int:
        """Number of heads over all ranks, replicas included."""
        return max(self.num_kv_heads, self.num_ranks)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers and ranks."""
        return 2 * self.num_layers * self._held_heads * self.head_size * DTYPE_BYTES[self.dtype]

    @property
    def value_bytes(self) -> int:
        """Bytes of one block's keys and values, which is also the offset of its scales."""
        return self.token_bytes * self.block_size

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's keys and values in one block."""
        return self.value_bytes // self.num_layers

    @property
    def scale_bytes(self) -> int:
        """Bytes of one block's scales."""
        scaled = self.dtype in SCALED_DTYPES
        return 2 * self.num_layers * self._held_heads * SCALE_BYTES if scaled else 0

    @property
    def block_bytes(self) -> int:
        return self.value_bytes + self.scale_bytes

    def num_blocks(self, num_tokens: int) -> int:
        """Number of blocks for `num_tokens` tokens; the last one may be partial."""
        return -(-num_tokens // self.block_size)
