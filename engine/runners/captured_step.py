"""CUDA graphs: work that is launched once and then repeated with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]
"""Makes a computation repeatable: what it returns gives the same tensor with new content."""


def repeat_eagerly(compute: Compute) -> Compute:
    """Where there are no graphs the computation is its own repetition."""
    return compute


class GraphRecorder:
    """Graphs of one device that share memory: only one of them is under way at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, compute: Compute) -> Compute:
        with torch.cuda.device(self._device):
            self._warm_up(compute)
            graph = torch.cuda.CUDAGraph()
            # Other threads of this process use CUDA too: they move blocks.
            recording = torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            )
            with recording:
                output = compute()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def _warm_up(self, compute: Compute) -> None:
        """What happens at the first time only, such as compiling kernels, is not recorded."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                compute()
        current.wait_stream(self._stream)
