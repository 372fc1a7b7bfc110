"""Checkpoints of random weights in bfloat16, of the shapes in models.py; needs no transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.checkpoints import TOKENIZER_FILES
from benchmarks.gpu.models import random_parameters
from cluster.bundled import BUNDLED_MODEL
from engine.model.config import ModelConfig
from engine.model.parameters import checkpoint_targets
from engine.model.rope_config import DefaultRope

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def write_checkpoint(
    config: ModelConfig, directory: Path, device: torch.device, spread: float = 0.02
) -> Path:
    """Write a checkpoint into this directory; its tokenizer is the bundled model's."""
    directory.mkdir(parents=True, exist_ok=True)
    parameters = random_parameters(config, torch.bfloat16, device, spread)
    tensors = checkpoint_targets(config, parameters)
    saved = {name: tensor.to("cpu").clone() for name, tensor in tensors.items()}
    save_file(saved, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(_described(config), indent=1))
    for file in TOKENIZER_FILES:
        shutil.copy(BUNDLED_MODEL / file, directory)
    return directory


def _described(config: ModelConfig) -> dict[str, Any]:
    """config.json as transformers writes it."""
    assert isinstance(config.rope, DefaultRope)
    window = next((it for it in config.windows if it is not None), None)
    return {
        "architectures": [config.architecture],
        "model_type": MODEL_TYPES[config.architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope.theta,
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "max_window_layers": 0,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
        "dtype": "bfloat16",
        "eos_token_id": None,
    }
