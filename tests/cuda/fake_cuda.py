"""CUDA without a device: torch's operations on fake tensors, which have shape, dtype and device.

Production code runs as it is. A mix of devices raises where it happens (FakeTensorMode); what
would wait for the device, or touch the host while a graph is captured, becomes a fault of
`FakeCuda.record`; kernels, copies, captured graphs and replays are counted there. A number that
the host reads is 0. Streams have no order here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from engine.attention.varlen_chunks import load_varlen
from tests.cuda.device_guard import set_device_guard
from tests.cuda.device_watch import DeviceWatch, Record

DEVICE = torch.device("cuda", 0)
FREE_BYTES, TOTAL_BYTES = 130 << 30, 140 << 30
_MOST_GRID = (2**31 - 1, 65535, 65535)
_DTYPES = {torch.int64: np.int64, torch.int32: np.int32, torch.bool: np.bool_}


@dataclass(frozen=True)
class FakeCuda:
    """A device that computes nothing."""

    watch: DeviceWatch

    @property
    def record(self) -> Record:
        return self.watch.record

    @contextmanager
    def recording(self) -> Iterator[Record]:
        """A record of what happens within."""
        before, self.watch.record = self.watch.record, Record()
        try:
            yield self.watch.record
        finally:
            self.watch.record = before


@contextmanager
def fake_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[FakeCuda]:
    """Within, tensors are fake ones, and torch.cuda is a device of this compute capability."""
    set_device_guard()
    load_varlen()  # what it imports must find real tensors
    watch = DeviceWatch()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # Of a cache that has no memory, whose address goes to nobody here.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        _replace_device(patch, watch, capability)
        _replace_host_memory(patch, watch, mode)
        _replace_triton(patch, watch)
        with mode, watch:
            yield FakeCuda(watch)


def _replace_device(
    patch: pytest.MonkeyPatch, watch: DeviceWatch, capability: tuple[int, int]
) -> None:
    memory = watch.memory
    properties = SimpleNamespace(multi_processor_count=132, name="fake")
    here: dict[str, object] = {
        "Event": lambda *_, **__: _Event(watch),
        "Stream": lambda *_, **__: _Stream(watch),
        "current_stream": lambda *_: _Stream(watch),
        "default_stream": lambda *_: _Stream(watch),
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "set_device": lambda _: None,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "synchronize": lambda *_: watch.wait("the device"),
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: properties,
        "mem_get_info": lambda *_: (FREE_BYTES - memory.allocated, TOTAL_BYTES),
        "memory_allocated": lambda *_: memory.allocated,
        "max_memory_allocated": lambda *_: memory.peak,
        "reset_peak_memory_stats": lambda *_: setattr(memory, "peak", memory.allocated),
        "empty_cache": lambda: None,
        "graph_pool_handle": lambda: (0, 0),
        "CUDAGraph": lambda *_, **__: _Graph(watch),
        "graph": _capture,
    }
    for name, stand_in in here.items():
        patch.setattr(torch.cuda, name, stand_in)


def _replace_host_memory(
    patch: pytest.MonkeyPatch, watch: DeviceWatch, mode: FakeTensorMode
) -> None:
    from_numpy, empty = torch.from_numpy, torch.empty

    def pinned_empty(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made = empty(*size, **options)
        return watch.pin(made) if pin_memory else made

    def read_all(tensor: Tensor) -> Any:
        watch.read(tensor)
        return np.zeros(tensor.shape, _DTYPES.get(tensor.dtype, np.float32)).tolist()

    patch.setattr(torch, "empty", pinned_empty)
    patch.setattr(
        torch, "from_numpy", lambda array: mode.from_tensor(from_numpy(np.ascontiguousarray(array)))
    )
    patch.setattr(Tensor, "pin_memory", lambda tensor, *_: watch.pin(tensor))
    patch.setattr(FakeTensor, "tolist", read_all)


def _replace_triton(patch: pytest.MonkeyPatch, watch: DeviceWatch) -> None:
    """Kernels are counted instead of being compiled, and their grids are checked."""
    jit = pytest.importorskip("triton.runtime.jit")
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def run(kernel: Any, *arguments: object, grid: Any, warmup: bool, **options: Any) -> None:
        sizes = grid(options) if callable(grid) else grid
        if any(not 0 < size <= most for size, most in zip(sizes, _MOST_GRID, strict=False)):
            watch.fault(f"{kernel.fn.__name__} has a grid of {sizes}")
        watch.launch(f"triton.{kernel.fn.__name__}", *arguments, *options.values())

    for kind in (jit.JITFunction, interpreter.InterpretedFunction):
        patch.setattr(kind, "run", run)


class _Event:
    def __init__(self, watch: DeviceWatch) -> None:
        self._watch = watch

    def record(self, *_: object) -> None:
        """Nothing runs that it could mark."""

    def wait(self, *_: object) -> None:
        """A stream waits, not the host."""

    def query(self) -> bool:
        self._watch._unread.clear()
        return True

    def synchronize(self) -> None:
        self._watch.wait("an event")

    def elapsed_time(self, _: object) -> float:
        return 1.0


class _Stream:
    cuda_stream = 0

    def __init__(self, watch: DeviceWatch) -> None:
        self._watch = watch

    def record_event(self, *_: object) -> _Event:
        return _Event(self._watch)

    def wait_stream(self, _: object) -> None:
        """Streams have no order here."""

    def wait_event(self, _: object) -> None:
        """Streams have no order here."""

    def synchronize(self) -> None:
        self._watch.wait("a stream")


class _Graph:
    def __init__(self, watch: DeviceWatch) -> None:
        self.watch = watch

    def replay(self) -> None:
        self.watch.record.replays += 1


@contextmanager
def _capture(graph: _Graph, **_: object) -> Iterator[None]:
    watch = graph.watch
    assert watch.captured is None, "two captures at a time"
    watch.captured = Record()
    try:
        yield
    finally:
        watch.record.captures.append(watch.captured)
        watch.captured = None
