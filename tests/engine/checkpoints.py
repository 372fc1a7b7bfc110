"""Tiny random checkpoints, one for each thing that a checkpoint may differ in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


def llama(**changes: object) -> PreTrainedConfig:
    return LlamaConfig(**{**SIZES, **changes})


def roped(**rope: object) -> PreTrainedConfig:
    return llama(rope_parameters={"rope_theta": 10000.0, **rope})


def mistral(**changes: object) -> PreTrainedConfig:
    return MistralConfig(**{**SIZES, "sliding_window": 11, **changes})


def qwen2(**changes: object) -> PreTrainedConfig:
    return Qwen2Config(**{**SIZES, **changes})


def qwen3(**changes: object) -> PreTrainedConfig:
    return Qwen3Config(**{**SIZES, "head_dim": 16, **changes})


@dataclass(frozen=True)
class Recipe:
    """How to write one checkpoint; `edit` changes config.json afterwards."""

    config: Callable[[], PreTrainedConfig]
    dtype: torch.dtype = torch.float32
    save: dict[str, object] = field(default_factory=dict)
    edit: Callable[[dict], None] = lambda config: None


def with_older_rope(config: dict) -> None:
    """As transformers 4 wrote it."""
    del config["rope_parameters"]
    config["rope_theta"] = 500.0
    config["rope_scaling"] = {"type": "linear", "factor": 2.0}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

RECIPES = {
    "llama": Recipe(llama),
    "llama-linear": Recipe(lambda: roped(rope_type="linear", factor=4.0)),
    "llama-dynamic": Recipe(
        lambda: llama(
            max_position_embeddings=48,
            rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        )
    ),
    "llama-llama3": Recipe(lambda: roped(**LLAMA3)),
    "llama-yarn": Recipe(lambda: roped(**YARN)),
    "llama-yarn-mscale": Recipe(
        lambda: roped(
            **YARN, mscale=0.7, mscale_all_dim=0.4, beta_fast=16, beta_slow=2, truncate=False
        )
    ),
    "llama-yarn-factor": Recipe(lambda: roped(**YARN, attention_factor=1.3)),
    "llama-older-rope": Recipe(llama, edit=with_older_rope),
    "llama-tied": Recipe(lambda: llama(tie_word_embeddings=True)),
    "llama-mqa": Recipe(lambda: llama(num_key_value_heads=1)),
    "llama-mha": Recipe(lambda: llama(num_key_value_heads=4)),
    "llama-biased": Recipe(lambda: llama(attention_bias=True, mlp_bias=True)),
    "llama-wide-heads": Recipe(lambda: llama(head_dim=24)),
    "llama-shards": Recipe(llama, save={"max_shard_size": "20KB"}),
    "llama-bf16": Recipe(llama, dtype=torch.bfloat16),
    "llama-fp16": Recipe(llama, dtype=torch.float16),
    "mistral": Recipe(mistral),
    "mistral-unlimited": Recipe(lambda: mistral(sliding_window=None)),
    "qwen2": Recipe(qwen2),
    "qwen2-windows": Recipe(
        lambda: qwen2(use_sliding_window=True, sliding_window=11, max_window_layers=1)
    ),
    "qwen3": Recipe(qwen3),
    "qwen3-windows": Recipe(
        lambda: qwen3(
            use_sliding_window=True,
            sliding_window=7,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
}


def write_checkpoint(name: str, directory: Path) -> Path:
    """Write RECIPES[name]; the same name gives the same weights."""
    return write(RECIPES[name], directory)


def write(recipe: Recipe, directory: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(recipe.config())
    _randomize(model)
    model.to(recipe.dtype).save_pretrained(directory, **recipe.save)
    edit_json(directory / "config.json", recipe.edit)
    return directory


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def _randomize(model: torch.nn.Module) -> None:
    """Weights large enough that answers vary, and biases and norms that do something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            if "norm" in name:
                parameter.add_(1.0)
