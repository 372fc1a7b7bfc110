"""Chooses the attention backend by its name in the configuration."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention.backend import AttentionBackend, GraphAttention
from engine.attention.flashinfer_backend import (
    FlashInferBackend,
    FlashInferTables,
    has_flashinfer,
)
from engine.attention.gpu_kernels import load_gpu_kernels
from engine.attention.tables import TorchTables, TritonTables
from engine.attention.torch_backend import TorchBackend
from engine.device.triton_available import uses_triton
from engine.errors import ConfigError

NAMES = ("auto", "flashinfer", "torch")


@dataclass(frozen=True, slots=True)
class Attention:
    """A backend's two forms: for any step, and for decode steps in CUDA graphs."""

    steps: AttentionBackend
    graphs: GraphAttention


def choose_attention(name: str, device: torch.device, *, scaled: bool = False) -> str:
    """ "flashinfer" or "torch"; "auto" takes the first that can be had. ConfigError otherwise.

    `scaled`: the cache's blocks have scales.
    """
    if name not in NAMES:
        raise ConfigError(f'attention "{name}": expected {", ".join(map(repr, NAMES))}')
    possible = device.type == "cuda" and has_flashinfer()
    if name == "flashinfer" and not possible:
        raise ConfigError(
            'attention "flashinfer": this needs a CUDA device, and the package flashinfer-python'
        )
    if name == "flashinfer" and scaled:
        raise ConfigError(
            'attention "flashinfer": it knows no scales of blocks; this cache_dtype needs "torch"'
        )
    return "flashinfer" if possible and not scaled and name != "torch" else "torch"


def make_attention(
    name: str,
    cache: Tensor,
    scales: Tensor | None,
    windows: Seq[int | None],
    dtype: torch.dtype,
    num_heads: int,
    most_blocks: int,
) -> Attention:
    """`name` as chosen; `most_blocks` is the longest block table."""
    if name == "flashinfer":
        backend = FlashInferBackend(cache, windows, dtype, num_heads)
        return Attention(backend, FlashInferTables(backend, most_blocks))
    triton = uses_triton(cache.device, scaled=scales is not None)
    kernels = load_gpu_kernels(cache.device, dtype, cache.shape[-1], triton=triton)
    tables = TritonTables if triton else TorchTables
    made = cache, windows, dtype, scales
    return Attention(TorchBackend(*made, kernels), tables(*made))
