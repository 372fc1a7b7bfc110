"""A decoder's parameters: allocated once, and named as the checkpoint names them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.collective import Collective, SingleRank
from engine.model.allocator import PartAllocator
from engine.model.config import ModelConfig
from engine.model.feed_forward import FeedForward, allocate_feed_forward
from engine.model.linear import Linear, fused_targets
from engine.model.model_part import ModelPart, model_part


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """One decoder layer. `qkv` is fused: one product computes queries, keys and values."""

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    post_attention_norm: Tensor
    feed_forward: FeedForward


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
    """A whole model's, uninitialized; `checkpoint_targets` says what to read into them."""
    return allocate_part(model_part(config), dtype, device, SingleRank())


def allocate_part(
    part: ModelPart, dtype: torch.dtype, device: torch.device, collective: Collective
) -> Parameters:
    """One rank's parameters, uninitialized. Vocabulary rows behind the rank's own are zero."""
    config, allocator = part.config, PartAllocator(part, dtype, device, collective)
    embedding = allocator.vocabulary()
    return Parameters(
        embedding=embedding,
        layers=tuple(_allocate_layer(allocator) for _ in range(config.num_layers)),
        final_norm=allocator.tensor(config.hidden_size),
        head=Linear(embedding if config.tied_embeddings else allocator.vocabulary()),
    )


def checkpoint_targets(config: ModelConfig, parameters: Parameters) -> dict[str, Tensor]:
    """Checkpoint tensor name -> the memory that it fills, a contiguous view of a parameter."""
    return part_targets(model_part(config), parameters)


def part_targets(part: ModelPart, parameters: Parameters) -> dict[str, Tensor]:
    """`checkpoint_targets` of one rank, which reads part.cut(name) of each tensor."""
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


def _allocate_layer(allocator: PartAllocator) -> LayerParameters:
    config, tensor = allocator.part.config, allocator.tensor
    hidden, head_size = config.hidden_size, config.head_size
    query, key = config.num_heads * head_size, config.num_kv_heads * head_size
    return LayerParameters(
        input_norm=tensor(hidden),
        qkv=allocator.linear(hidden, query + 2 * key, config.qkv_bias),
        query_norm=tensor(head_size) if config.qk_norm else None,
        key_norm=tensor(head_size) if config.qk_norm else None,
        output=allocator.summed(query, hidden, config.output_bias),
        post_attention_norm=tensor(hidden),
        feed_forward=allocate_feed_forward(allocator),
    )


def _layer_targets(config: ModelConfig, layer: LayerParameters) -> Iterator[tuple[str, Tensor]]:
    query, key = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    yield "input_layernorm.weight", layer.input_norm
    yield "post_attention_layernorm.weight", layer.post_attention_norm
    if layer.query_norm is not None and layer.key_norm is not None:
        yield "self_attn.q_norm.weight", layer.query_norm
        yield "self_attn.k_norm.weight", layer.key_norm
    attention = {"q_proj": query, "k_proj": key, "v_proj": key}
    yield from fused_targets("self_attn", attention, layer.qkv)
    yield from fused_targets("self_attn", {"o_proj": config.hidden_size}, layer.output)
    yield from layer.feed_forward.targets()
