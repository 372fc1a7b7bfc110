"""What tests of the CUDA path share, none of which needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def interpreted_kernels() -> Iterator[None]:
    """The engine's Triton kernels run on tensors in host memory."""
    pytest.importorskip("triton")
    from engine.cuda import kernels
    from tests.cuda.interpreter import interpreted

    with interpreted(kernels):
        yield
