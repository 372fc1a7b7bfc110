"""The numbers of a model that a step's work follows from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from checkpoint.length import model_length
from engine.errors import CheckpointError
from engine.model.keys import Keys, read_json
from sim.devices.errors import BadShape
from wire.layout import DTYPE_BYTES

MULTIPLY_ADD = 2
"""Operations of one weight for one token."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decoder with full attention. Of a mixture of experts, `intermediate_size` is the width of
    one expert."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    tied_embeddings: bool = False
    num_experts: int = 1
    experts_per_token: int = 1
    gated: bool = True
    """Whether the feed-forward has three matrices, as Llama's, or two, as OPT's."""
    dtype: str = "bfloat16"
    cache_dtype: str | None = None
    """Dtype of the KV cache; None: that of the weights, where a cache can have it."""
    max_model_len: int = 1 << 17

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for dtype in (self.dtype, self.cache_dtype):
            if dtype is not None and dtype not in DTYPE_BYTES:
                raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPE_BYTES)}")

    @property
    def attention_parameters(self) -> int:
        """Of one layer: queries and output, keys and values."""
        return 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_kv_heads)

    @property
    def expert_parameters(self) -> int:
        """Of one layer's feed-forward, or of one expert of it."""
        return (3 if self.gated else 2) * self.hidden_size * self.intermediate_size

    @property
    def head_parameters(self) -> int:
        """Of the matrix that gives logits."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        layer = self.attention_parameters + self.num_experts * self.expert_parameters
        tables = 1 if self.tied_embeddings else 2
        return self.num_layers * layer + tables * self.head_parameters

    @property
    def weight_bytes(self) -> int:
        return self.num_parameters * DTYPE_BYTES[self.dtype]

    @property
    def read_bytes(self) -> int:
        """Weights that a step reads: all but the table of embeddings, of which it takes few rows.

        A mixture's experts count all: from some fifty sequences on, each is some token's.
        """
        layer = self.attention_parameters + self.num_experts * self.expert_parameters
        read = self.num_layers * layer + self.head_parameters
        return read * DTYPE_BYTES[self.dtype]

    @property
    def token_flops(self) -> int:
        """Operations for one token in all layers, without attention to others and logits."""
        layer = self.attention_parameters + self.experts_per_token * self.expert_parameters
        return MULTIPLY_ADD * self.num_layers * layer

    @property
    def logits_flops(self) -> int:
        """Operations for the logits of one token, which sequences need and a prompt's middle
        does not."""
        return MULTIPLY_ADD * self.head_parameters

    @property
    def pair_flops(self) -> int:
        """Operations for a token that attends to another: its key, and its value."""
        return 2 * MULTIPLY_ADD * self.num_layers * self.num_heads * self.head_size

    @property
    def kept_dtype(self) -> str:
        """Dtype of the KV cache."""
        return self.cache_dtype or self.dtype


def shape_of(directory: str | Path) -> ModelShape:
    """The shape of the model in `directory`, from its config.json; weights are not needed.

    Raises BadShape, which names the file and the key that is missing or unknown.
    """
    directory = Path(directory)
    try:
        keys = read_json(directory / "config.json")
        return _shape(keys)
    except (CheckpointError, ValueError) as error:
        raise BadShape(str(error)) from error


def _shape(keys: Keys) -> ModelShape:
    if "kv_lora_rank" in keys:
        raise keys.invalid("kv_lora_rank", "none: latent attention cannot be simulated by shape")
    hidden_size, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    experts = "num_experts" if "num_experts" in keys else "num_local_experts"
    mixture = experts in keys
    width = "moe_intermediate_size" if "moe_intermediate_size" in keys else "intermediate_size"
    return ModelShape(
        num_layers=keys.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=keys.integer(width),
        num_heads=num_heads,
        num_kv_heads=keys.integer("num_key_value_heads", num_heads),
        head_size=keys.integer("head_dim", max(1, hidden_size // num_heads)),
        vocab_size=keys.integer("vocab_size"),
        tied_embeddings=keys.flag("tie_word_embeddings", False),
        num_experts=keys.integer(experts) if mixture else 1,
        experts_per_token=keys.integer("num_experts_per_tok") if mixture else 1,
        dtype=_dtype(keys),
        max_model_len=model_length(keys.values),
    )


def _dtype(keys: Keys) -> str:
    """Quantized weights are known where they are of eight bits; newer files say `dtype`."""
    if "quantization_config" in keys:
        method = keys.mapping("quantization_config").text("quant_method", "unknown")
        if method != "fp8":
            raise keys.invalid("quantization_config", 'none, or quant_method "fp8"')
        return "float8_e4m3fn"
    return keys.text("dtype" if "dtype" in keys else "torch_dtype", "bfloat16")
