"""What the shared libraries of torch and NIXL need is what their installation brings."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from kv_transfer.transports.nixl.bindings import MODULES, VERSION
from tests.packaging.elf import DRIVER, Libraries, package_folder
from tests.packaging.index import libraries_in, resolved

ROOT = Path(__file__).resolve().parents[2]
BINDINGS = ("_bindings", "libplugin_UCX", "libuct_cma", "libuct_ib.", "libuct_ib_mlx5.")
FOR_GPUS = ("libuct_cuda", "libucm_cuda")
TORCH = "2.13.0"


@dataclass(frozen=True)
class Flavour:
    """A PyTorch for one version of CUDA."""

    major: int
    runtime: str
    """The library that the runtime brings."""

    @property
    def nixl(self) -> Libraries:
        module = MODULES[self.major]
        folder = package_folder(module)
        beside = (f"{module}.libs", f".{module}.mesonpy.libs")
        return Libraries([folder, *(folder.with_name(name) for name in beside)])


CU13 = Flavour(13, "libcudart.so.13")
CU12 = Flavour(12, "libcudart.so.12")
flavours = pytest.mark.parametrize("flavour", [CU13, CU12], ids=["cu13", "cu12"])


def need_wheel(flavour: Flavour) -> None:
    """Two wheels of NIXL cannot be imported by one process, so it is only looked for."""
    if find_spec(MODULES[flavour.major]) is None:
        pytest.skip(f"nixl-cu{flavour.major} is not installed")


@flavours
def test_on_a_machine_without_gpu_nixl_needs_nothing_that_is_not_installed(
    flavour: Flavour,
) -> None:
    need_wheel(flavour)
    assert flavour.nixl.missing(BINDINGS) == set()


@flavours
def test_for_gpu_memory_nixl_needs_the_driver_and_the_runtime_of_its_own_cuda(
    flavour: Flavour,
) -> None:
    """So that beside a PyTorch for another CUDA it takes GPU memory for host memory."""
    need_wheel(flavour)
    assert flavour.nixl.missing(FOR_GPUS) == DRIVER | {flavour.runtime}


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch is one for CUDA")
def test_pytorch_for_cpus_brings_all_its_libraries() -> None:
    assert Libraries([package_folder("torch")]).missing(["libtorch_python.so"]) == set()


@pytest.mark.long
def test_pytorch_brings_the_runtime_that_nixl_needs(tmp_path: Path) -> None:
    """The pair that is installed by default: PyPI has no PyTorch for CUDA 12."""
    need_wheel(CU13)
    assert f"torch=={TORCH}" in dependencies()
    (metadata,) = resolved(f"torch==={TORCH}", "--no-deps")
    asked = [Requirement(it) for it in metadata["requires_dist"]]
    (toolkit,) = [it for it in asked if it.name == "cuda-toolkit"]
    toolkit.extras &= {"cudart"}
    toolkit.marker = None
    (runtime,) = [it for it in resolved(str(toolkit)) if "cuda-runtime" in it["name"]]
    wheel = f"{runtime['name']}=={runtime['version']}"
    assert libraries_in(wheel, tmp_path) & CU13.nixl.missing(FOR_GPUS) == {CU13.runtime}


def test_what_is_installed_by_default_is_the_pair_for_cuda_13() -> None:
    assert {f"torch=={TORCH}", f"nixl-cu13=={VERSION}"} <= set(dependencies())


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = project["dependencies"]
    return found
