"""A GPU's attention kernels that stand in for PyTorch's operations where they can serve."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.attention.varlen_chunks import load_varlen, varlen_serves


@dataclass(frozen=True, slots=True)
class GpuKernels:
    """`paged_decode`: Triton's for decode rows; `varlen`: flash attention for prompts' chunks."""

    paged_decode: bool = False
    varlen: bool = False


def load_gpu_kernels(
    device: torch.device, dtype: torch.dtype, head_size: int, *, triton: bool
) -> GpuKernels:
    """The kernels that can compute in `dtype` on this device, where Triton's can run or cannot."""
    if device.type != "cuda":
        return GpuKernels(paged_decode=triton)
    avoid_cudnn_attention()
    capability = torch.cuda.get_device_capability(device)
    varlen = varlen_serves(dtype, head_size, capability)
    if varlen:
        load_varlen()
    return GpuKernels(triton, varlen)


def avoid_cudnn_attention() -> None:
    """Keep PyTorch's attention from cuDNN, which is its first choice on Hopper.

    cuDNN makes a plan for each new shape, which takes 0.1 to 0.5 s; here nearly every prompt and
    every mixed step has a new shape. For keys that are expanded over heads there may be no plan at
    all, which is an error, and no other kernel is tried.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
