"""NIXL's Python modules, from the wheel that was built for PyTorch's version of CUDA.

There is a wheel for CUDA 12 and one for CUDA 13. The part of UCX that tells device memory from host
memory needs libcudart of the wheel's version, which PyTorch brings. Beside a PyTorch of another
version it does not load, and UCX then takes device memory for host memory. So the two must agree.
"""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

VERSION = "1.5.1"
"""The version of NIXL that Tandem is tested with."""
MODULES = {13: "nixl_cu13", 12: "nixl_cu12"}
"""The module of each major version of CUDA; one that is preferred comes first."""


def torch_cuda() -> str | None:
    """The version of CUDA that PyTorch was built for; None for a PyTorch without, or no PyTorch.

    PyTorch is not imported: that takes a second, which a worker without a model need not pay.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    found: str | None = version.get("cuda")
    return found


def choose_module(cuda: str | None, is_installed: Callable[[str], bool]) -> str:
    """The module for a PyTorch built for `cuda`; without CUDA any that is installed will do.

    Raises ImportError, which says what to install.
    """
    installed = [module for module in MODULES.values() if is_installed(module)]
    if cuda is None:
        if not installed:
            raise ImportError(f"NIXL is not installed: {_install(13)}")
        return installed[0]
    major = int(cuda.partition(".")[0])
    module = MODULES.get(major)
    if module in installed:
        return module
    beside = f", beside which {', '.join(installed)} cannot see GPU memory" if installed else ""
    if module is None:
        raise ImportError(
            f"PyTorch was built for CUDA {cuda}{beside}; NIXL has wheels for CUDA 12 and 13: "
            f"install PyTorch for one of them, and NIXL, for 13 with {_install(13)}"
        )
    raise ImportError(f"PyTorch was built for CUDA {cuda}{beside}: {_install(major)}")


def _install(major: int) -> str:
    return f"pip install nixl-cu{major}=={VERSION}"


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


MODULE = choose_module(torch_cuda(), _is_installed)
nixl_api: Any = importlib.import_module(f"{MODULE}._api")
nixl_bindings: Any = importlib.import_module(f"{MODULE}._bindings")
