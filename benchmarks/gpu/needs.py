"""Why something that a part needs is not there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

INSTALL = {
    "transformers": "pip install -e '.[dev]'",
    "triton": "it comes with PyTorch's builds for CUDA",
}


def why_missing(package: str) -> str | None:
    """None where the package is installed."""
    if find_spec(package) is not None:
        return None
    return f"needs {package}: {INSTALL.get(package, f'pip install {package}')}"


def why_no_nixl() -> str | None:
    """None where the transport can be imported."""
    try:
        import_module("kv_transfer.transports.nixl.nixl_transport")
    except Exception as error:  # noqa: BLE001
        return f"needs NIXL: {error}"
    return None
