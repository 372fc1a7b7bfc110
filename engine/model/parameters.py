"""A decoder's parameters: allocated once, and named as the checkpoint names them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.memory import empty
from engine.model.config import ModelConfig
from engine.model.linear import Linear


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """One decoder layer. `qkv` and `gate_up` are fused: one product computes all their parts."""

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    post_attention_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Parameters:
    """All of a decoder. `head` shares the memory of `embedding` when the two are tied."""

    embedding: Tensor
    layers: tuple[LayerParameters, ...]
    final_norm: Tensor
    head: Linear


def allocate_parameters(
    config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> Parameters:
    """Uninitialized parameters; `checkpoint_targets` says what to read into them."""
    return _Allocator(config, dtype, device).parameters()


def checkpoint_targets(config: ModelConfig, parameters: Parameters) -> dict[str, Tensor]:
    """Checkpoint tensor name -> the memory that it fills, a contiguous view of a parameter."""
    targets = {
        "model.embed_tokens.weight": parameters.embedding,
        "model.norm.weight": parameters.final_norm,
    }
    if not config.tied_embeddings:
        targets["lm_head.weight"] = parameters.head.weight
    for number, layer in enumerate(parameters.layers):
        for name, target in _layer_targets(config, layer):
            targets[f"model.layers.{number}.{name}"] = target
    return targets


def _layer_targets(config: ModelConfig, layer: LayerParameters) -> Iterator[tuple[str, Tensor]]:
    query, key = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    yield "input_layernorm.weight", layer.input_norm
    yield "post_attention_layernorm.weight", layer.post_attention_norm
    if layer.query_norm is not None and layer.key_norm is not None:
        yield "self_attn.q_norm.weight", layer.query_norm
        yield "self_attn.k_norm.weight", layer.key_norm
    attention = {"q_proj": query, "k_proj": key, "v_proj": key}
    yield from _fused_targets("self_attn", attention, layer.qkv)
    yield from _fused_targets("self_attn", {"o_proj": config.hidden_size}, layer.output)
    gate_up = {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size}
    yield from _fused_targets("mlp", gate_up, layer.gate_up)
    yield from _fused_targets("mlp", {"down_proj": config.hidden_size}, layer.down)


def _fused_targets(
    module: str, outputs: dict[str, int], linear: Linear
) -> Iterator[tuple[str, Tensor]]:
    """The parts of a fused layer, which lie below each other in its weight and its bias."""
    begin = 0
    for name, count in outputs.items():
        yield f"{module}.{name}.weight", linear.weight[begin : begin + count]
        if linear.bias is not None:
            yield f"{module}.{name}.bias", linear.bias[begin : begin + count]
        begin += count


class _Allocator:
    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device

    def parameters(self) -> Parameters:
        config = self._config
        embedding = self._tensor(config.vocab_size, config.hidden_size)
        tied = config.tied_embeddings
        return Parameters(
            embedding=embedding,
            layers=tuple(self._layer() for _ in range(config.num_layers)),
            final_norm=self._tensor(config.hidden_size),
            head=Linear(embedding if tied else self._tensor(*embedding.shape)),
        )

    def _layer(self) -> LayerParameters:
        config = self._config
        hidden, inner = config.hidden_size, config.intermediate_size
        query, key = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        return LayerParameters(
            input_norm=self._tensor(hidden),
            qkv=self._linear(hidden, query + 2 * key, config.qkv_bias),
            query_norm=self._tensor(config.head_size) if config.qk_norm else None,
            key_norm=self._tensor(config.head_size) if config.qk_norm else None,
            output=self._linear(query, hidden, config.output_bias),
            post_attention_norm=self._tensor(hidden),
            gate_up=self._linear(hidden, 2 * inner, config.mlp_bias),
            down=self._linear(inner, hidden, config.mlp_bias),
        )

    def _linear(self, inputs: int, outputs: int, bias: bool) -> Linear:
        return Linear(self._tensor(outputs, inputs), self._tensor(outputs) if bias else None)

    def _tensor(self, *shape: int) -> Tensor:
        return empty(shape, self._dtype, self._device)
