"""The model configuration of a checkpoint directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from checkpoint.ends import tokenizer_end
from checkpoint.errors import BrokenDirectory
from checkpoint.length import model_length
from engine.errors import CheckpointError
from engine.model.keys import Keys, read_json
from engine.model.rope_config import RopeConfig, read_rope

Architecture = Literal[
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
]
_ARCHITECTURES: tuple[Architecture, ...] = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's shape. `windows` holds each layer's sliding window, None for full attention."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    max_model_len: int
    """Maximum sequence length of the checkpoint, in tokens."""
    rope: RopeConfig
    windows: tuple[int | None, ...]
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    eos_token_ids: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        return len(self.windows)


def read_config(directory: Path) -> ModelConfig:
    """The model in `directory`, from config.json and, if there, generation_config.json.

    Absent keys mean what they mean in Hugging Face's definition of the architecture. Raises
    CheckpointError naming the file and the key that is missing, invalid or unsupported.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: is not a directory with a model checkpoint")
    keys = read_json(directory / "config.json")
    architecture = _read_architecture(keys)
    _refuse_unsupported(keys)
    hidden_size, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    max_position = keys.integer("max_position_embeddings")
    rope = read_rope(keys, max_position)
    vocab_size = keys.integer("vocab_size")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=keys.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=keys.integer("num_key_value_heads", num_heads),
        head_size=_read_head_size(keys, architecture, hidden_size, num_heads),
        rms_norm_eps=keys.number("rms_norm_eps", 1e-6),
        max_position_embeddings=max_position,
        max_model_len=_read_length(keys),
        rope=rope,
        windows=_read_windows(keys, architecture),
        tied_embeddings=keys.flag("tie_word_embeddings", False),
        qkv_bias=_read_bias(keys, architecture, "attention_bias", always=("Qwen2ForCausalLM",)),
        output_bias=_read_bias(keys, architecture, "attention_bias"),
        mlp_bias=architecture == "LlamaForCausalLM" and keys.flag("mlp_bias", False),
        qk_norm=architecture == "Qwen3ForCausalLM",
        eos_token_ids=_read_eos_token_ids(directory, keys, vocab_size),
    )
    if config.num_heads % config.num_kv_heads:
        raise keys.invalid("num_key_value_heads", f"a divisor of the {num_heads} attention heads")
    return config


def _read_length(keys: Keys) -> int:
    try:
        return model_length(keys.values)
    except ValueError as error:
        raise CheckpointError(f"{keys.path}: {error}") from error


def _read_architecture(keys: Keys) -> Architecture:
    named = keys.values.get("architectures")
    for architecture in _ARCHITECTURES:
        if named == [architecture]:
            return architecture
    raise keys.invalid("architectures", f"one of {', '.join(_ARCHITECTURES)}")


def _refuse_unsupported(keys: Keys) -> None:
    if keys.text("hidden_act", "silu") != "silu":
        raise keys.invalid("hidden_act", '"silu", the only supported activation')
    if "quantization_config" in keys:
        raise keys.invalid("quantization_config", "none: only unquantized weights are supported")


def _read_head_size(
    keys: Keys, architecture: Architecture, hidden_size: int, num_heads: int
) -> int:
    derived = 128 if architecture == "Qwen3ForCausalLM" else hidden_size // num_heads
    head_size = keys.integer("head_dim", derived)
    if head_size % 2:
        raise keys.invalid("head_dim", f"an even number (found {head_size})")
    return head_size


def _read_bias(
    keys: Keys, architecture: Architecture, key: str, always: tuple[str, ...] = ()
) -> bool:
    """Mistral and Qwen2 ignore the key: one never has these biases, the other has them fixed."""
    if architecture in ("MistralForCausalLM", "Qwen2ForCausalLM"):
        return architecture in always
    return keys.flag(key, False)


def _read_windows(keys: Keys, architecture: Architecture) -> tuple[int | None, ...]:
    num_layers = keys.integer("num_hidden_layers")
    if architecture == "LlamaForCausalLM":
        return (None,) * num_layers
    null = "sliding_window" in keys.values and "sliding_window" not in keys
    window = None if null else keys.integer("sliding_window", 4096)
    if architecture == "MistralForCausalLM":
        return (window,) * num_layers
    if not keys.flag("use_sliding_window", False):
        window = None
    return tuple(
        window if kind == "sliding_attention" else None
        for kind in _read_layer_types(keys, num_layers, window)
    )


def _read_layer_types(keys: Keys, num_layers: int, window: int | None) -> list[str]:
    """Each layer's kind of attention; without the list, layers from max_window_layers on slide."""
    given = keys.values.get("layer_types")
    if given is None:
        first = keys.integer("max_window_layers", 28, least=0) if window else num_layers
        return [
            "sliding_attention" if layer >= first else "full_attention"
            for layer in range(num_layers)
        ]
    known = ["full_attention", *(["sliding_attention"] if window else [])]
    if not isinstance(given, list) or len(given) != num_layers or set(given) - set(known):
        raise keys.invalid("layer_types", f"{num_layers} entries out of {', '.join(known)}")
    return given


def _read_eos_token_ids(directory: Path, keys: Keys, vocab_size: int) -> tuple[int, ...]:
    """EOS tokens of generation_config.json, or else config.json, as in Hugging Face's `generate`;
    and the tokenizer's own, as in vLLM."""
    path = directory / "generation_config.json"
    if path.exists() and "eos_token_id" in (generation := read_json(path)):
        keys = generation
    value = keys.values.get("eos_token_id")
    ids: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(id, bool) or not isinstance(id, int) or id < 0 for id in ids):
        raise keys.invalid("eos_token_id", "a token id or a list of token ids")
    try:
        own = tokenizer_end(directory, vocab_size)
    except BrokenDirectory as error:
        raise CheckpointError(str(error)) from error
    return tuple(ids) if own is None or own in ids else (*ids, own)
