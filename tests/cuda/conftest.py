"""What tests of the CUDA path share, none of which needs a GPU."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

import engine.cuda


@pytest.fixture
def interpreted_kernels() -> Iterator[None]:
    """The engine's Triton kernels run on tensors in host memory."""
    pytest.importorskip("triton")
    from tests.cuda.interpreter import interpreted

    names = [it.name for it in pkgutil.iter_modules(engine.cuda.__path__, "engine.cuda.")]
    with interpreted(*map(import_module, names)):
        yield
