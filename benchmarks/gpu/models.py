"""Llama-shaped models with random weights, created on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.attention.choice import choose_attention
from engine.attention.flashinfer_available import AttentionShape
from engine.model.config import ModelConfig
from engine.model.parameters import Parameters, allocate_parameters, checkpoint_targets
from engine.model.rope_config import DefaultRope
from engine.model.transformer import Transformer
from engine.runners.cache_shape import cache_layout
from engine.runners.captured_step import run_eagerly
from engine.runners.torch_runner import StepSettings, TorchRunner

BLOCK_SIZE = 16
MAX_MODEL_LEN = 8192 + 1024


def llama(
    hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, *, tied: bool
) -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=hidden // heads,
        rms_norm_eps=1e-5,
        max_position_embeddings=MAX_MODEL_LEN,
        max_model_len=MAX_MODEL_LEN,
        rope=DefaultRope(theta=500000.0),
        windows=(None,) * layers,
        tied_embeddings=tied,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        eos_token_ids=(),
    )


SHAPES = {
    "1b": llama(2048, 16, 32, 8, 8192, 128256, tied=True),
    "8b": llama(4096, 32, 32, 8, 14336, 128256, tied=False),
}
SMALL = llama(512, 4, 8, 2, 1024, 2048, tied=False)
TINY = llama(64, 2, 4, 2, 96, 512, tied=False)
"""For a CPU."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of computing a step."""

    name: str
    attention: str = "torch"
    graphs: bool = True
    ahead: bool = True
    fused: bool = True


def auto_attention(device: torch.device, config: ModelConfig) -> str:
    """The attention that a worker chooses by itself for this model in bfloat16."""
    shape = AttentionShape(torch.bfloat16, torch.bfloat16, config.head_size)
    return choose_attention("auto", device, shape)


def random_parameters(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, spread: float = 0.02
) -> Parameters:
    """Random matrices with this standard deviation, and norms around one."""
    parameters = allocate_parameters(config, dtype, device)
    torch.manual_seed(0)
    for name, tensor in checkpoint_targets(config, parameters).items():
        tensor.normal_(std=spread)
        if "norm" in name:
            tensor.add_(1.0)
    return parameters


def make_runner(
    config: ModelConfig,
    parameters: Parameters,
    variant: Variant,
    num_blocks: int,
    max_sequences: int = 32,
) -> TorchRunner:
    """A runner with a cache of its own; parameters may be shared.

    On a CPU PyTorch's operations compute, since compiled kernels would take the parameters for
    themselves, and `graphs` means that the steps that would be captured are computed each time.
    """
    device, dtype = parameters.embedding.device, parameters.embedding.dtype
    on_gpu = device.type == "cuda"
    graphs = "off" if not variant.graphs else "start" if on_gpu else "lazy"
    runner = TorchRunner(
        config,
        Transformer(config, parameters, device, native=variant.fused and on_gpu),
        cache_layout(config, BLOCK_SIZE, dtype),
        device,
        model_hash="random",
        max_model_len=MAX_MODEL_LEN,
        settings=StepSettings(variant.attention, graphs, max_sequences),
    )
    runner.allocate(num_blocks + 1)
    if variant.graphs and not on_gpu:
        runner.capture_steps(run_eagerly, spare_block=num_blocks)
    return runner
