"""Models of every architecture on a fake CUDA device, with the runner of production."""

from __future__ import annotations

from typing import Any

import torch

from engine.model.config import ModelConfig
from engine.model.parameters import allocate_parameters
from engine.model.rope_config import DefaultRope, DynamicRope, Llama3Rope
from engine.model.transformer import Transformer
from engine.runners.cache_shape import cache_layout
from engine.runners.torch_runner import StepSettings, TorchRunner
from engine.sequence import Sequence
from tests.cuda.fake_cuda import DEVICE
from tests.engine.driver import make_sequence
from wire.sampling import SamplingParams

BLOCK_SIZE = 16


def a_config(**changes: object) -> ModelConfig:
    fields: dict[str, object] = {
        "architecture": "LlamaForCausalLM",
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_size": 16,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "max_model_len": 512,
        "rope": DefaultRope(theta=1e4),
        "windows": (None, None),
        "tied_embeddings": False,
        "qkv_bias": False,
        "output_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
        "eos_token_ids": (),
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


CONFIGS = {
    "llama": a_config(),
    "llama3": a_config(
        rope=Llama3Rope(
            theta=1e4,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position=64,
        )
    ),
    "qwen3": a_config(architecture="Qwen3ForCausalLM", qk_norm=True, tied_embeddings=True),
    "qwen2-windows": a_config(architecture="Qwen2ForCausalLM", qkv_bias=True, windows=(None, 20)),
    "mistral": a_config(architecture="MistralForCausalLM", windows=(32, 32)),
    "dynamic": a_config(rope=DynamicRope(theta=1e4, factor=2.0, max_position=16)),
}


def a_runner(
    config: ModelConfig,
    dtype: torch.dtype = torch.bfloat16,
    *,
    num_blocks: int = 64,
    **settings: Any,
) -> TorchRunner:
    """Its cache is allocated, and its graphs are captured if they are at "start"."""
    runner = an_empty_runner(config, dtype, **settings)
    runner.allocate(num_blocks)
    return runner


def an_empty_runner(
    config: ModelConfig,
    dtype: torch.dtype = torch.bfloat16,
    *,
    cache_dtype: torch.dtype | None = None,
    graphs: str = "start",
    max_sequences: int = 2,
    max_model_len: int = 256,
    chunk_tokens: int = 64,
) -> TorchRunner:
    """A runner without a cache."""
    return TorchRunner(
        config,
        Transformer(config, allocate_parameters(config, dtype, DEVICE), DEVICE),
        cache_layout(config, BLOCK_SIZE, cache_dtype or dtype),
        DEVICE,
        model_hash="fake",
        max_model_len=max_model_len,
        settings=StepSettings("torch", graphs, max_sequences, chunk_tokens),
    )


def a_sequence(num_tokens: int, first_block: int, **sampling: object) -> Sequence:
    """A prompt of that many tokens, with blocks for 256."""
    fields: dict[str, object] = {"max_tokens": 100, "temperature": 0.0, "ignore_eos": True}
    params = SamplingParams(**{**fields, **sampling})  # type: ignore[arg-type]
    sequence = make_sequence(range(1, num_tokens + 1), params, name=f"{num_tokens}/{first_block}")
    sequence.blocks = list(range(first_block, first_block + 16))
    return sequence
