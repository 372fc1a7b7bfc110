"""FlashInfer's C++ is compiled for Hopper, by the compiler of NVIDIA's package, on any machine."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from engine.attention.flashinfer_available import search_path
from engine.attention.flashinfer_backend import FlashInferBackend
from tests.cuda.compiled_flashinfer import compiled_flashinfer

TOOLKIT = Path(torch.__file__).parents[1] / "nvidia" / "cu13"
MAGIC, MACHINE_CODE = struct.pack("<I", 0xBA55ED50), 2
STUB = "int cuInit(unsigned flags) { return 0; }"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.xdist_group("flashinfer"),
    pytest.mark.skipif(not (TOOLKIT / "bin" / "nvcc").exists(), reason="needs nvidia-cuda-nvcc"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """The package's files as a toolkit lays them out, with a driver to link against."""
    home, libraries = tmp_path / "cuda", tmp_path / "cuda" / "lib64"
    (libraries / "stubs").mkdir(parents=True)
    for name in ("bin", "include", "nvvm"):
        (home / name).symlink_to(TOOLKIT / name)
    (libraries / "libcudart.so").symlink_to(next((TOOLKIT / "lib").glob("libcudart.so.*")))
    source = tmp_path / "stub.c"
    source.write_text(STUB)
    driver = libraries / "stubs" / "libcuda.so"
    subprocess.run(["c++", "-shared", "-fPIC", "-o", driver, source], check=True, timeout=60)
    return home


def test_a_decode_kernel_of_a_model_is_compiled(
    toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flashinfer.jit import cpp_ext, env

    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    monkeypatch.setenv("PATH", search_path({"PATH": "/usr/bin:/bin"}))
    monkeypatch.setattr(env, "FLASHINFER_JIT_DIR", tmp_path / "modules")
    for cached in (cpp_ext.get_cuda_path, cpp_ext.get_cuda_version):
        cached.cache_clear()
    with compiled_flashinfer(tmp_path / "sources", (9, 0)) as compiled:
        cache = torch.zeros(8, 1, 2, 8, 16, 128, dtype=torch.bfloat16)
        backend = FlashInferBackend(cache, (None,), torch.bfloat16, num_heads=24)
        backend.load()
        [spec] = [spec for spec in compiled.specs if spec.name.startswith("batch_decode")]
        spec.build()
    code = device_code(spec.jit_library_path.read_bytes())
    assert {architecture for architecture, _ in code} == {90}
    assert max(size for _, size in code) > 10_000


def device_code(library: bytes) -> list[tuple[int, int]]:
    """Architecture and bytes of each piece of machine code in a library's "fat binaries"."""
    found, begin = list[tuple[int, int]](), library.find(MAGIC)
    while begin >= 0:
        header, size = struct.unpack_from("<HQ", library, begin + 6)
        place, end = begin + header, begin + header + size
        while place < end:
            kind, _, own_header, own_size = struct.unpack_from("<HHIQ", library, place)
            [architecture] = struct.unpack_from("<I", library, place + 28)
            if kind == MACHINE_CODE:
                found.append((architecture, own_size))
            place += own_header + own_size
        begin = library.find(MAGIC, end)
    return found
