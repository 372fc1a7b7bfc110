"""Chooses the attention backend by its name in the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention.backend import AttentionBackend, GraphAttention
from engine.attention.flashinfer_available import (
    AttentionShape,
    FlashInferInstall,
    find_flashinfer,
    why_no_flashinfer,
    why_not_by_itself,
)
from engine.attention.flashinfer_backend import FlashInferBackend, FlashInferTables
from engine.attention.gpu_kernels import load_gpu_kernels
from engine.attention.tables import TorchTables, TritonTables
from engine.attention.torch_backend import TorchBackend
from engine.device.triton_available import uses_triton
from engine.errors import ConfigError

log = logging.getLogger(__name__)

NAMES = ("auto", "flashinfer", "torch")


@dataclass(frozen=True, slots=True)
class Attention:
    """A backend's two forms: for any step, and for decode steps in CUDA graphs."""

    steps: AttentionBackend
    graphs: GraphAttention


def choose_attention(
    name: str,
    device: torch.device,
    shape: AttentionShape,
    install: Callable[[], FlashInferInstall] = find_flashinfer,
) -> str:
    """ "flashinfer" or "torch"; "auto" is FlashInfer where it can serve, and is tested.

    Says in the log what was chosen. ConfigError with the reason for FlashInfer where it cannot
    serve.
    """
    if name not in NAMES:
        raise ConfigError(f'attention "{name}": expected {", ".join(map(repr, NAMES))}')
    if name == "torch" or (name == "auto" and device.type == "cpu"):
        return "torch"
    installed = install()
    reason = why_no_flashinfer_on(device, shape, installed)
    if name == "flashinfer":
        if reason is not None:
            raise ConfigError(f'attention "flashinfer": {reason}')
        return name
    reason = reason or why_not_by_itself(installed)
    if reason is None:
        log.info("attention: FlashInfer %s", installed.version)
        return "flashinfer"
    log.info("attention: PyTorch's flash attention and Triton's kernel; not FlashInfer: %s", reason)
    return "torch"


def why_no_flashinfer_on(
    device: torch.device, shape: AttentionShape, install: FlashInferInstall | None = None
) -> str | None:
    """The reason for this device and installation; None where FlashInfer can serve."""
    on_gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if on_gpu else None
    return why_no_flashinfer(shape, capability, install or find_flashinfer())


def make_attention(
    name: str,
    cache: Tensor,
    scales: Tensor | None,
    windows: Seq[int | None],
    dtype: torch.dtype,
    num_heads: int,
    most_blocks: int,
    *,
    or_torch: bool = False,
) -> Attention:
    """`name` as chosen; `most_blocks` is the longest block table.

    FlashInfer's kernels are compiled and loaded now. Where that fails PyTorch's serve, with a
    warning, if `or_torch`; else it is a ConfigError.
    """
    if name == "flashinfer":
        backend = FlashInferBackend(cache, windows, dtype, num_heads)
        if _loads(backend, or_torch=or_torch):
            return Attention(backend, FlashInferTables(backend, most_blocks))
    triton = uses_triton(cache.device, scaled=scales is not None)
    kernels = load_gpu_kernels(cache.device, dtype, cache.shape[-1], triton=triton)
    tables = TritonTables if triton else TorchTables
    made = cache, windows, dtype, scales
    return Attention(TorchBackend(*made, kernels), tables(*made))


def _loads(backend: FlashInferBackend, *, or_torch: bool) -> bool:
    try:
        backend.load()
    except Exception as error:  # its compilers end in errors of every class
        reason = f"FlashInfer's kernels cannot be compiled or loaded: {error}"
        if not or_torch:
            raise ConfigError(f'attention "flashinfer": {reason}') from error
        log.warning("attention: PyTorch's flash attention and Triton's kernel; %s", reason)
        return False
    return True
