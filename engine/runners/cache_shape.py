"""The layout of a model's KV cache in memory, and tensors over it."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.model.config import ModelConfig
from engine.model.model_part import ModelPart, model_part
from wire.layout import KvLayout


def cache_layout(config: ModelConfig, block_size: int, dtype: torch.dtype) -> KvLayout:
    """A whole model's cache layout. Raises ConfigError for an unsupported block size."""
    return part_layout(model_part(config), block_size, dtype)


def part_layout(part: ModelPart, block_size: int, dtype: torch.dtype) -> KvLayout:
    """One rank's cache layout. Raises ConfigError for an unsupported block size."""
    if block_size not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        raise ConfigError(f"block_size {block_size}: expected a power of two from 1 to 256")
    return KvLayout(
        num_layers=part.config.num_layers,
        num_kv_heads=part.config.num_kv_heads,
        head_size=part.config.head_size,
        block_size=block_size,
        dtype=str(dtype).removeprefix("torch."),
        first_kv_head=part.kv_heads.start,
        total_kv_heads=None if part.size == 1 else part.whole.num_kv_heads,
    )


def shaped(memory: Tensor, layout: KvLayout) -> tuple[Tensor, Tensor | None]:
    """View bytes as [blocks, layers, 2, kv_heads, block_size, head_size], and their scales.

    Scales, if the layout has them, are float32 [blocks, layers, 2, kv_heads], and are set to 1.
    """
    blocks = memory.view(-1, layout.block_bytes)
    kinds = layout.num_layers, 2, layout.num_kv_heads
    values = blocks[:, : layout.value_bytes].view(getattr(torch, layout.dtype))
    values = torch.unflatten(values, 1, (*kinds, layout.block_size, layout.head_size))
    if not layout.scale_bytes:
        return values, None
    scales = torch.unflatten(blocks[:, layout.value_bytes :].view(torch.float32), 1, kinds)
    return values, scales.fill_(1.0)
