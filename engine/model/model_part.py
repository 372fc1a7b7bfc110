"""Which part of a model a rank computes, and which part of each stored tensor that takes; pure.

Attention is divided by heads and the feed-forward by its inner width: what comes in is divided by
the rows of its weights, what goes out by the columns, and one sum over the ranks joins the parts.
(Shoeybi et al., Megatron-LM, arXiv:1909.08053, section 3) The vocabulary is divided too, for the
embedding and the head are a large part of small models: a head that each rank had whole would be
read whole by each in every step.
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
    """Ranks that share their queries' only head each hold a copy of it."""
    inner: range
    """Of the feed-forward's `intermediate_size`."""
    vocabulary: range
    num_vocabulary_rows: int
    """Rows of the embedding on every rank; the last ones' may be more than they have tokens."""
    config: ModelConfig
    """The model as this rank sees it: with its own heads and widths."""
    whole: ModelConfig

    @property
    def adds_biases(self) -> bool:
        """Of the products that are summed over the ranks: one rank has their biases."""
        return self.rank == 0

    def cut(self, name: str) -> TensorSlice | None:
        """What this rank reads of a checkpoint's tensor; None for all of it."""
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
    """The KV heads that a rank holds: its share, or the one head that its queries ask for."""
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
