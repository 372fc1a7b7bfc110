"""Tensor parallelism: which part of a model, and of each stored tensor, a rank has; pure.

Attention is divided by heads and the feed-forward by its inner width: input projections by rows,
output projections by columns, joined by one all-reduce each. (Shoeybi et al., Megatron-LM,
arXiv:1909.08053, section 3) The vocabulary is divided too, for embedding and head are a large part
of small models, and each rank would read a whole head in every step.
"""

from __future__ import annotations

import msgspec

from engine.errors import ConfigError
from engine.model.config import ModelConfig


class TensorSlice(msgspec.Struct, frozen=True):
    """Rows (dimension 0) or columns (1) of a stored tensor that has `total` of them."""

    dimension: int
    span: range
    total: int


class ModelPart(msgspec.Struct, frozen=True):
    """One rank's share of a model, in the model's own numbering."""

    rank: int
    size: int
    heads: range
    kv_heads: range
    """With fewer KV heads than ranks, KV heads are replicated."""
    inner: range
    """The rank's part of the feed-forward's `intermediate_size`."""
    vocabulary: range
    num_vocabulary_rows: int
    """Rows of the embedding on every rank; the last ranks may have fewer tokens than rows."""
    config: ModelConfig
    """The model as this rank sees it: with its own heads and widths."""
    whole: ModelConfig

    @property
    def adds_biases(self) -> bool:
        """True on the one rank that adds the biases of row-parallel products."""
        return self.rank == 0

    def cut(self, name: str) -> TensorSlice | None:
        """The slice of a checkpoint's tensor that this rank reads; None for all of it."""
        if self.size == 1:
            return None
        module, _, kind = name.removeprefix("model.").rpartition(".")
        match module.rpartition(".")[2]:
            case "embed_tokens" | "lm_head":
                return TensorSlice(0, self.vocabulary, self.whole.vocab_size)
            case "q_proj":
                return self._heads_cut(0, self.heads, self.whole.num_heads)
            case "k_proj" | "v_proj":
                return self._heads_cut(0, self.kv_heads, self.whole.num_kv_heads)
            case "gate_proj" | "up_proj":
                return TensorSlice(0, self.inner, self.whole.intermediate_size)
            case "o_proj" if kind == "weight":
                return self._heads_cut(1, self.heads, self.whole.num_heads)
            case "down_proj" if kind == "weight":
                return TensorSlice(1, self.inner, self.whole.intermediate_size)
        return None

    def _heads_cut(self, dimension: int, heads: range, total: int) -> TensorSlice:
        size = self.whole.head_size
        return TensorSlice(dimension, range(heads.start * size, heads.stop * size), total * size)


def model_part(config: ModelConfig, rank: int = 0, size: int = 1) -> ModelPart:
    """Raises ConfigError for a number of ranks that this model cannot be divided among."""
    _check(config, size)
    num_rows = -(-config.vocab_size // size)
    ends = [min(config.vocab_size, end * num_rows) for end in (rank, rank + 1)]
    heads = _share(config.num_heads, rank, size)
    inner = _share(config.intermediate_size, rank, size)
    kv_heads = kv_heads_of(config.num_kv_heads, rank, size)
    own = {
        "num_heads": len(heads),
        "num_kv_heads": len(kv_heads),
        "intermediate_size": len(inner),
        "vocab_size": num_rows,
    }
    return ModelPart(
        rank=rank,
        size=size,
        heads=heads,
        kv_heads=kv_heads,
        inner=inner,
        vocabulary=range(*ends),
        num_vocabulary_rows=num_rows,
        config=config if size == 1 else msgspec.structs.replace(config, **own),
        whole=config,
    )


def kv_heads_of(num_kv_heads: int, rank: int, size: int) -> range:
    """The KV heads of a rank: its part, or the one head that its queries attend to."""
    if num_kv_heads >= size:
        return _share(num_kv_heads, rank, size)
    head = rank * num_kv_heads // size
    return range(head, head + 1)


def _share(total: int, rank: int, size: int) -> range:
    return range(rank * total // size, (rank + 1) * total // size)


def _check(config: ModelConfig, size: int) -> None:
    if size < 1:
        raise ConfigError(f"tensor_parallel_size is {size}, must be at least 1")
    kinds = {
        "attention heads": config.num_heads,
        "columns of the feed-forward (intermediate_size)": config.intermediate_size,
    }
    for what, number in kinds.items():
        if number % size:
            raise ConfigError(
                f"tensor_parallel_size is {size}, must be a divisor of this model's {number} {what}"
            )
    num_kv_heads = config.num_kv_heads
    if max(num_kv_heads, size) % min(num_kv_heads, size):
        raise ConfigError(
            f"tensor_parallel_size is {size}, must be a divisor or a multiple of this model's "
            f"{num_kv_heads} KV heads"
        )
