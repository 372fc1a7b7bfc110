"""A decoder's parameters: allocated once, and named as the checkpoint names them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.collective import Alone, Collective
from engine.device.memory import empty
from engine.model.config import ModelConfig
from engine.model.linear import Linear, SummedLinear
from engine.model.model_part import ModelPart, model_part


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
    """Of a whole model, uninitialized; `checkpoint_targets` says what to read into them."""
    return allocate_part(model_part(config), dtype, device, Alone())


def allocate_part(
    part: ModelPart, dtype: torch.dtype, device: torch.device, collective: Collective
) -> Parameters:
    """The same of what one rank has of a model. Rows of tokens that it has not are zero."""
    return _Allocator(part, dtype, device, collective).parameters()


def checkpoint_targets(config: ModelConfig, parameters: Parameters) -> dict[str, Tensor]:
    """Checkpoint tensor name -> the memory that it fills, a contiguous view of a parameter."""
    return part_targets(model_part(config), parameters)


def part_targets(part: ModelPart, parameters: Parameters) -> dict[str, Tensor]:
    """The same for one rank, which reads part.cut(name) of a tensor."""
    config, num_tokens = part.config, len(part.vocabulary)
    targets = {
        "model.embed_tokens.weight": parameters.embedding[:num_tokens],
        "model.norm.weight": parameters.final_norm,
    }
    if not config.tied_embeddings:
        targets["lm_head.weight"] = parameters.head.weight[:num_tokens]
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
    def __init__(
        self, part: ModelPart, dtype: torch.dtype, device: torch.device, collective: Collective
    ) -> None:
        self._part = part
        self._dtype = dtype
        self._device = device
        self._collective = collective

    def parameters(self) -> Parameters:
        config = self._part.config
        embedding = self._vocabulary()
        return Parameters(
            embedding=embedding,
            layers=tuple(self._layer() for _ in range(config.num_layers)),
            final_norm=self._tensor(config.hidden_size),
            head=Linear(embedding if config.tied_embeddings else self._vocabulary()),
        )

    def _layer(self) -> LayerParameters:
        config = self._part.config
        hidden, inner = config.hidden_size, config.intermediate_size
        query, key = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        return LayerParameters(
            input_norm=self._tensor(hidden),
            qkv=self._linear(hidden, query + 2 * key, config.qkv_bias),
            query_norm=self._tensor(config.head_size) if config.qk_norm else None,
            key_norm=self._tensor(config.head_size) if config.qk_norm else None,
            output=self._summed(query, hidden, config.output_bias),
            post_attention_norm=self._tensor(hidden),
            gate_up=self._linear(hidden, 2 * inner, config.mlp_bias),
            down=self._summed(inner, hidden, config.mlp_bias),
        )

    def _linear(self, inputs: int, outputs: int, bias: bool) -> Linear:
        return Linear(self._tensor(outputs, inputs), self._tensor(outputs) if bias else None)

    def _summed(self, inputs: int, outputs: int, bias: bool) -> Linear:
        part = self._linear(inputs, outputs, bias and self._part.adds_biases)
        if self._part.size == 1:
            return part
        return SummedLinear(part.weight, part.bias, collective=self._collective)

    def _vocabulary(self) -> Tensor:
        rows = self._tensor(self._part.num_vocabulary_rows, self._part.config.hidden_size)
        rows[len(self._part.vocabulary) :].zero_()
        return rows

    def _tensor(self, *shape: int) -> Tensor:
        return empty(shape, self._dtype, self._device)
