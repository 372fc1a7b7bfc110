"""The network, and the folder that holds it in the format of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from .tokenizer import BEGIN, END, SPECIAL_TOKENS, VOCAB_SIZE

# Longer prompts than any training window are for tests of a server's mechanics.
MAX_POSITIONS = 16384

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_POSITIONS,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": SPECIAL_TOKENS.index(BEGIN),
    "eos_token_id": SPECIAL_TOKENS.index(END),
    "pad_token_id": SPECIAL_TOKENS.index(END),
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",  # the same, as readers before transformers 5 call it
}

GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": CONFIG["bos_token_id"],
    "eos_token_id": CONFIG["eos_token_id"],
    "pad_token_id": CONFIG["pad_token_id"],
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.95,
}


def new_model(seed: int) -> LlamaForCausalLM:
    """A network with its first random weights, in float32."""
    torch.manual_seed(seed)
    config = {**CONFIG, "dtype": "float32", "torch_dtype": "float32"}
    return LlamaForCausalLM(LlamaConfig(**config))


def load_model(folder: Path) -> LlamaForCausalLM:
    """The exported weights; computed in float32, which costs them nothing."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return cast(LlamaForCausalLM, model.train(False))


def parameters(model: LlamaForCausalLM) -> int:
    """How many weights there are, the tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def export_weights(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes config and bf16 weights; the tied head is not written a second time."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in weights.items()
        if name != "lm_head.weight"
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file as people like to read it."""
    path.write_text(json.dumps(content, indent=2) + "\n")
