"""A worker whose Triton cannot compile or launch says why, and computes without it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.build import compile_module_from_src  # noqa: E402

from engine.attention.choice import make_attention  # noqa: E402
from engine.attention.tables import TorchTables, TritonTables  # noqa: E402
from engine.cuda import kernels  # noqa: E402
from engine.device import triton_available  # noqa: E402
from engine.device.kernel_caches import set_kernel_caches  # noqa: E402
from engine.device.triton_available import try_triton, uses_triton  # noqa: E402
from engine.runners.torch_loading import _kernels_know_scales  # noqa: E402

GPU = torch.device("cuda", 0)
LAUNCHER = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "launcher", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_launcher(void) { return PyModule_Create(&module); }
"""


class NoDevice:
    """A driver that compiles for an H100, with a launcher like CUDA's, and launches nothing."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 228 << 10},
        load_binary=lambda *_: (0, 0, 8, 0, 1024),
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: object, metadata: object) -> object:
        compile_module_from_src(LAUNCHER, "launcher")
        return lambda *_: None


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    kernels.write_one.device_caches.clear()
    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    yield
    kernels.write_one.device_caches.clear()


def said_by(caplog: pytest.LogCaptureFixture) -> str:
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    return record.getMessage()


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *, works: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(triton_available, "_launches", lambda device: works)


@pytest.mark.usefixtures("no_device")
def test_a_kernel_is_compiled_and_launched() -> None:
    assert try_triton(torch.zeros(1, dtype=torch.int32))


@pytest.mark.usefixtures("no_device")
def test_a_folder_that_cannot_be_made_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/dev/null/cache")
    assert not try_triton(torch.zeros(1, dtype=torch.int32))
    assert "/dev/null/cache" in said_by(caplog)


@pytest.mark.usefixtures("no_device")
def test_a_missing_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not try_triton(torch.zeros(1, dtype=torch.int32))
    assert "Failed to find C compiler" in said_by(caplog)


@pytest.mark.usefixtures("no_device")
def test_missing_headers_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": "/nowhere"})
    assert not try_triton(torch.zeros(1, dtype=torch.int32))
    assert "needs Python.h" in said_by(caplog)


def test_a_process_without_a_home_falls_back() -> None:
    """As a container's user has none; torch_loading sets the folders that help."""
    script = (
        "import torch; from tests.cuda.test_triton_available import NoDevice, triton\n"
        "from engine.device.triton_available import try_triton\n"
        "triton.runtime.driver.set_active(NoDevice())\n"
        "print(try_triton(torch.zeros(1, dtype=torch.int32)))"
    )
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "HOME": "/dev/null"}
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env=kept, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
    assert "PyTorch's operations serve" in ran.stderr


@pytest.mark.parametrize(
    ("capability", "works", "wide", "scaled"),
    [
        ((7, 5), True, False, False),
        ((8, 0), True, True, False),
        ((8, 9), True, True, True),
        ((9, 0), True, True, True),
        ((9, 0), False, False, False),
    ],
)
def test_kernels_serve_where_the_gpu_has_what_they_need(
    capability: tuple[int, int],
    works: bool,
    wide: bool,
    scaled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_gpu(monkeypatch, capability, works=works)
    assert uses_triton(GPU) == wide
    assert uses_triton(GPU, scaled=True) == scaled
    assert not uses_triton(torch.device("cpu"))


def test_an_older_gpu_computes_8_bits_with_pytorch_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_gpu(monkeypatch, (8, 0), works=True)
    assert not _kernels_know_scales(GPU)
    assert "need Triton and compute capability 8.9; this GPU has 8.0" in said_by(caplog)
    assert not _kernels_know_scales(torch.device("cpu"))


@pytest.mark.parametrize(("capability", "tables"), [((8, 0), TorchTables), ((8, 9), TritonTables)])
def test_tables_of_a_scaled_cache_follow_the_gpu(
    capability: tuple[int, int], tables: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cuda.fake_cuda import fake_cuda

    with fake_cuda(capability):
        monkeypatch.setattr(triton_available, "_launches", lambda device: True)
        cache = torch.zeros(4, 1, 2, 2, 16, 64, device=GPU).to(torch.float8_e4m3fn)
        scales = torch.ones(4, 1, 2, 2, device=GPU)
        made = make_attention("torch", cache, scales, (None,), torch.bfloat16, 4, 8)
        assert type(made.graphs) is tables


def test_compilers_of_kernels_have_folders_beside_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path))
    environment: dict[str, str] = {}
    set_kernel_caches(environment)
    assert environment == {
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path),
    }


@pytest.mark.parametrize("name", ["TRITON_CACHE_DIR", "TRITON_HOME", "FLASHINFER_WORKSPACE_BASE"])
def test_what_the_user_chose_stays(name: str) -> None:
    environment = {name: "/theirs"}
    set_kernel_caches(environment)
    assert environment[name] == "/theirs"
    assert not {"TRITON_HOME", "TRITON_CACHE_DIR"} <= environment.keys()
