"""Which attention is chosen, and the reasons that are given."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from engine.attention import choice
from engine.attention.choice import choose_attention, make_attention
from engine.attention.flashinfer_available import (
    TESTED_VERSION,
    AttentionShape,
    FlashInferInstall,
    why_no_flashinfer,
    why_not_compiled,
)
from engine.attention.torch_backend import TorchBackend
from engine.errors import ConfigError

pytestmark = pytest.mark.quick

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
HALF, BFLOAT, FLOAT, EIGHT = torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn
HOPPER = (9, 0)
SHAPE = AttentionShape(BFLOAT, BFLOAT, 128)
INSTALLED = FlashInferInstall(TESTED_VERSION)
NO_NVCC = FlashInferInstall(TESTED_VERSION, "its kernels cannot be compiled without nvcc")


@pytest.mark.parametrize(
    ("shape", "capability", "install", "reason"),
    [
        (SHAPE, HOPPER, INSTALLED, None),
        (AttentionShape(HALF, HALF, 64), (8, 0), INSTALLED, None),
        (AttentionShape(BFLOAT, BFLOAT, 256), (10, 0), FlashInferInstall("0.9.0"), None),
        (SHAPE, None, INSTALLED, "this needs a CUDA device"),
        (SHAPE, HOPPER, FlashInferInstall(None), "flashinfer-python is not installed"),
        (SHAPE, (7, 5), INSTALLED, "needs compute capability 8.0, and this GPU has 7.5"),
        (AttentionShape(BFLOAT, EIGHT, 128), HOPPER, INSTALLED, "knows no scales of blocks"),
        (AttentionShape(FLOAT, FLOAT, 128), HOPPER, INSTALLED, "not in float32"),
        (AttentionShape(BFLOAT, FLOAT, 128), HOPPER, INSTALLED, "over a cache of float32"),
        (AttentionShape(BFLOAT, BFLOAT, 8), HOPPER, INSTALLED, "heads of 8 are none of those"),
        (AttentionShape(BFLOAT, BFLOAT, 96), HOPPER, INSTALLED, "heads of 96 are none of those"),
        (SHAPE, HOPPER, NO_NVCC, "cannot be compiled without nvcc"),
    ],
)
def test_flashinfer_serves_or_there_is_a_reason(
    shape: AttentionShape,
    capability: tuple[int, int] | None,
    install: FlashInferInstall,
    reason: str | None,
) -> None:
    found = why_no_flashinfer(shape, capability, install)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: HOPPER)


def chosen(
    name: str, install: FlashInferInstall, device: torch.device = GPU, shape: AttentionShape = SHAPE
) -> str:
    return choose_attention(name, device, shape, lambda: install)


@pytest.mark.parametrize(
    ("install", "attention", "said"),
    [
        (INSTALLED, "flashinfer", f"attention: FlashInfer {TESTED_VERSION}"),
        (NO_NVCC, "torch", "not FlashInfer: its kernels cannot be compiled without nvcc"),
        (FlashInferInstall(None), "torch", "not FlashInfer: the package"),
        (FlashInferInstall("0.9.0"), "torch", "version 0.9.0 is not the tested one"),
    ],
)
def test_auto_says_what_it_chose_and_why(
    install: FlashInferInstall,
    attention: str,
    said: str,
    hopper: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert chosen("auto", install) == attention
    [line] = caplog.messages
    assert said in line


def test_what_is_asked_for_by_name_is_taken_or_an_error(hopper: None) -> None:
    assert chosen("torch", INSTALLED) == "torch"
    assert chosen("flashinfer", FlashInferInstall("0.9.0")) == "flashinfer"
    with pytest.raises(ConfigError, match='attention "flashinfer": its kernels cannot be compiled'):
        chosen("flashinfer", NO_NVCC)
    with pytest.raises(ConfigError, match="knows no scales"):
        chosen("flashinfer", INSTALLED, shape=AttentionShape(BFLOAT, EIGHT, 128))
    with pytest.raises(ConfigError, match='attention "flashinfer": this needs a CUDA device'):
        chosen("flashinfer", INSTALLED, CPU)
    with pytest.raises(ConfigError, match="attention \"flash\": expected 'auto', "):
        chosen("flash", INSTALLED)


class Uncompiled:
    """Stands in for FlashInfer's backend where a header of its kernels is missing."""

    def __init__(self, *arguments: object) -> None:
        pass

    def load(self) -> None:
        raise RuntimeError("Ninja build failed: curand_kernel.h: No such file or directory")


def test_kernels_that_do_not_compile_are_an_error_by_name_and_a_warning_by_auto(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "FlashInferBackend", Uncompiled)
    cache = torch.zeros(2, 1, 2, 1, 16, 64)
    with pytest.raises(ConfigError, match=r"cannot be compiled or loaded.*curand_kernel\.h"):
        make_attention("flashinfer", cache, None, (None,), FLOAT, 1, 2)
    made = make_attention("flashinfer", cache, None, (None,), FLOAT, 1, 2, or_torch=True)
    assert isinstance(made.steps, TorchBackend)
    [line] = caplog.messages
    assert "PyTorch's flash attention" in line
    assert "curand_kernel.h" in line


def test_a_cpu_does_not_look_for_flashinfer() -> None:
    def look() -> FlashInferInstall:
        raise AssertionError("looked")

    assert choose_attention("auto", CPU, SHAPE, look) == "torch"


def having(*programs: str) -> Callable[[str], str | None]:
    return lambda program: program if program in programs else None


@pytest.mark.parametrize(
    ("environment", "programs", "missing"),
    [
        ({}, ("nvcc", "c++", "ninja"), None),
        ({}, ("/usr/local/cuda/bin/nvcc", "c++", "ninja"), None),
        ({"CUDA_HOME": "/cuda"}, ("/cuda/bin/nvcc", "c++", "ninja"), None),
        ({"CUDA_PATH": "/cuda"}, ("/cuda/bin/nvcc", "c++", "ninja"), None),
        ({"FLASHINFER_NVCC": "/other/nvcc"}, ("/other/nvcc", "c++", "ninja"), None),
        ({"CXX": "clang++"}, ("nvcc", "clang++", "ninja"), None),
        ({}, ("c++", "ninja"), "without nvcc"),
        ({"CUDA_HOME": "/cuda"}, ("nvcc", "c++", "ninja"), "without nvcc"),
        ({}, ("nvcc", "ninja"), "without c++ on the PATH"),
        ({}, ("nvcc", "c++"), "without ninja on the PATH"),
    ],
)
def test_what_compiling_needs_is_looked_for_where_flashinfer_looks(
    environment: dict[str, str], programs: tuple[str, ...], missing: str | None
) -> None:
    found = why_not_compiled(environment, having(*programs))
    assert (found is None) == (missing is None)
    assert (missing or "") in (found or "")
