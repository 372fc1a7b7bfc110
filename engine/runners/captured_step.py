"""CUDA graphs: computations that are captured once and replayed with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Compute = Callable[[], Tensor]
Capture = Callable[[Compute], Compute]
"""Captures a computation; the function returned replays it into the same output tensor."""


def run_eagerly(compute: Compute) -> Compute:
    """A Capture for devices without CUDA graphs: every replay computes."""
    return compute


class GraphCapture:
    """Captures graphs of one device that share memory, since only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, compute: Compute) -> Compute:
        with torch.cuda.device(self._device):
            self._warm_up(compute)
            graph = torch.cuda.CUDAGraph()
            # Other threads of this process use CUDA too: they move blocks.
            capturing = torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            )
            with capturing:
                output = compute()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def _warm_up(self, compute: Compute) -> None:
        """Run twice before capturing, so that one-time work such as compiling is not captured."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                compute()
        current.wait_stream(self._stream)
