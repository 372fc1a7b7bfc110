"""A watch over torch's operations on fake CUDA tensors: what they launch, copy, and wait for."""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COMPOSITE = "CompositeImplicitAutograd"
_ALLOCATIONS = ("empty", "new_empty", "lift", "detach", "alias", "set_", "resize")
_TEST_FILES = ("/tests/cuda/", "/torch/")


@dataclass
class Record:
    """A stretch of host code, as the device would see it."""

    kernels: Counter[str] = field(default_factory=Counter)
    """Kernels launched by name: Triton's, and torch's, each of whose operations counts as one."""
    to_device: list[int] = field(default_factory=list)
    """Bytes of each asynchronous copy from pinned memory."""
    to_host: list[int] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    """Places that waited for an event or a stream."""
    replays: int = 0
    captures: list[Record] = field(default_factory=list)
    """Graphs captured meanwhile. Their kernels, and those of warm-ups, are counted here too."""
    faults: list[str] = field(default_factory=list)
    """Hidden waits, blocking copies, host tensors in kernels or in a captured computation."""

    @property
    def num_kernels(self) -> int:
        return self.kernels.total()


class DeviceMemory:
    """Bytes of the storages of all living fake tensors on the device."""

    def __init__(self) -> None:
        self.allocated = 0
        self.peak = 0
        self._tensors: Counter[int] = Counter()

    def enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if not self._tensors[key]:
            self.allocated += num_bytes
            self.peak = max(self.peak, self.allocated)
        self._tensors[key] += 1
        weakref.finalize(tensor, self._leave, key, num_bytes)

    def _leave(self, key: int, num_bytes: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            self.allocated -= num_bytes


class DeviceWatch(TorchDispatchMode):
    """Enters what it sees in `record`, and in `captured` while a graph is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.memory = DeviceMemory()
        self.captured: Record | None = None
        self._pinned: dict[int, Any] = {}
        self._unread: dict[int, Any] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would wrap every call, which takes longer than the watch itself."""
        return False

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if op._schema.name == "aten::_local_scalar_dense":
            return self._read_number(args[0])
        if op.namespace == "prim":
            return op(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), _COMPOSITE):
            with self:
                made = op.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        try:
            made = op(*args, **kwargs)
        except DynamicOutputShapeException:
            self.fault(f"{op} waits to learn its result's shape")
            raise
        self._enter(op, args, kwargs, made)
        return made

    def pin(self, tensor: Tensor) -> Tensor:
        if self.captured is not None:
            self.fault("memory is pinned while a graph is captured")
        storage = tensor.untyped_storage()
        self._pinned[storage._cdata] = storage
        return tensor

    def launch(self, kernel: str, *arguments: object) -> None:
        """A kernel that torch does not know of."""
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.device.type != "cuda":
                self.fault(f"{kernel} is given a tensor on {argument.device}")
        self._count(kernel)

    def wait(self, what: str) -> None:
        if self.captured is not None:
            self.fault(f"{what} is waited for while a graph is captured")
        self.record.waits.append(f"{what} at {_place()}")
        self._unread.clear()

    def fault(self, what: str) -> None:
        text = f"{what}, at {_place()}"
        self.record.faults.append(text)
        if self.captured is not None:
            self.captured.faults.append(text)

    def read(self, tensor: Tensor) -> None:
        """The host reads a tensor's numbers."""
        if tensor.device.type != "cpu":
            self.fault(f"the host reads a tensor {tuple(tensor.shape)} on {tensor.device}")
        elif tensor.untyped_storage()._cdata in self._unread:
            self.fault("the host reads a copy from the device before it is over")
        elif self.captured is not None:
            self.fault("the host reads a number while a graph is captured")

    def _read_number(self, tensor: Tensor) -> int | float | bool:
        self.read(tensor)
        if tensor.dtype == torch.bool:
            return False
        return 0.0 if tensor.is_floating_point() else 0

    def _enter(self, op: Any, args: Any, kwargs: Any, made: Any) -> None:
        tensors = [each for each in tree_leaves((args, kwargs, made)) if isinstance(each, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device.type == "cuda":
                self.memory.enter(tensor)
        name = op.overloadpacket.__name__
        if name in ("_to_copy", "copy_") and devices == {"cpu", "cuda"}:
            into, source = (made, args[0]) if name == "_to_copy" else args[:2]
            self._copy(into, source, _is_non_blocking(name, args, kwargs))
            return
        if "cuda" in devices and not op.is_view and not name.startswith(_ALLOCATIONS):
            self._count(name)
        if self.captured is not None and any(t.device.type == "cpu" and t.dim() for t in tensors):
            self.fault(f"{name} uses a host tensor while a graph is captured")

    def _count(self, kernel: str) -> None:
        self.record.kernels[kernel] += 1
        if self.captured is not None:
            self.captured.kernels[kernel] += 1

    def _copy(self, into: Tensor, source: Tensor, non_blocking: bool) -> None:
        host, there = (source, True) if source.device.type == "cpu" else (into, False)
        direction = "to the device" if there else "to the host"
        storage = host.untyped_storage()
        if not non_blocking:
            self.fault(f"a blocking copy {direction} of {tuple(host.shape)}")
        elif storage._cdata not in self._pinned:
            self.fault(f"a copy {direction} of pageable memory {tuple(host.shape)}")
        if self.captured is not None:
            self.fault(f"a copy {direction} while a graph is captured")
        if there:
            self.record.to_device.append(host.nbytes)
        else:
            self.record.to_host.append(host.nbytes)
            self._unread[storage._cdata] = storage


def _is_non_blocking(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given: Callable[[str], Any] = kwargs.get
    return bool(given("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))


def _place() -> str:
    """The innermost line of the program that is tested."""
    for frame in reversed(traceback.extract_stack()):
        if not any(part in frame.filename for part in _TEST_FILES):
            return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno}"
    return "a test"
