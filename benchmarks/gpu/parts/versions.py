"""What is installed, what the machine has, and what was chosen for it."""

from __future__ import annotations

import platform
import resource
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, check, note
from benchmarks.gpu.needs import why_no_nixl
from engine.attention.choice import choose_attention, why_no_flashinfer_on
from engine.attention.flashinfer_available import AttentionShape
from engine.device.triton_available import uses_triton

PACKAGES = (
    *("tandem-serve", "torch", "triton", "nixl", "nixl-cu12", "nixl-cu13", "flashinfer-python"),
    *("flashinfer-jit-cache", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "transformers"),
)
DRIVER = Path("/proc/driver/nvidia/version")
BINDINGS = "kv_transfer.transports.nixl.bindings"
SHAPE = AttentionShape(torch.bfloat16, torch.bfloat16, head_size=128)
SDP = ("math", "flash", "efficient", "cudnn")


def run(context: Context) -> Iterator[Finding]:
    yield note("machine", f"{platform.platform()}, Python {platform.python_version()}")
    for package in PACKAGES:
        yield note(package, _version(package))
    yield from guarded(context, "CUDA", lambda: _cuda(context))
    yield from guarded(context, "choices", lambda: _choices(context))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda(context: Context) -> Iterator[Finding]:
    yield note("driver", DRIVER.read_text().splitlines()[0] if DRIVER.exists() else "none")
    yield note("CUDA of torch", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    for tool in ("nvcc", "g++"):
        yield note(tool, shutil.which(tool) or "not on PATH")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    yield note("locked memory", "unlimited" if limit < 0 else f"{limit >> 20} MiB")
    if not context.on_gpu:
        return
    properties = torch.cuda.get_device_properties(context.torch_device)
    yield check("device", True, f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    yield note(
        "compute capability",
        f"{properties.major}.{properties.minor}, {properties.multi_processor_count} SMs",
    )
    free, total = torch.cuda.mem_get_info(context.torch_device)
    yield note("free memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB")


def _choices(context: Context) -> Iterator[Finding]:
    device = context.torch_device
    yield note("attention: auto", choose_attention("auto", device, SHAPE))
    yield note("FlashInfer", why_no_flashinfer_on(device, SHAPE) or "can serve")
    yield note("Triton kernels", "yes" if uses_triton(device) else "no: PyTorch's operations")
    yield note("NIXL", why_no_nixl() or import_module(BINDINGS).MODULE)
    enabled = [name for name in SDP if getattr(torch.backends.cuda, f"{_sdp(name)}_sdp_enabled")()]
    yield note("PyTorch's attention", f"enabled {', '.join(enabled)}")
    order = getattr(torch._C, "_get_sdp_priority_order", None)
    if order is not None:
        names = [getattr(backend, "name", str(backend)) for backend in _backends(order())]
        yield note("PyTorch's order", ", ".join(names))


def _sdp(name: str) -> str:
    return "mem_efficient" if name == "efficient" else name


def _backends(numbers: list[int]) -> list[object]:
    from torch.nn.attention import SDPBackend

    return [SDPBackend(number) for number in numbers]
