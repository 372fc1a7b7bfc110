"""Compiles Triton kernels for GPUs that are not there, and reads what they would use.

    with launches_of(engine.cuda.kernels) as launches:
        operations.decode(...)  # on tensors in host memory; nothing is computed
    assert compile_launch(launches[0], arch=90).spill_bytes == 0

A launch is specialized as Triton does it where there is a GPU: by its tensors' dtypes, by which
addresses and numbers are multiples of 16, and by which numbers are 1. So what is compiled is what a
worker would compile for these tensors.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

ARCHITECTURES = (80, 89, 90, 100)
"""Compute capabilities: A100; L4, L40S and RTX 40; H100 and H200; B200."""

_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch that was not made. `options` are keyword arguments, num_warps among them."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.__name__


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """What one program of a kernel uses; `registers` are a thread's."""

    registers: int
    spill_bytes: int
    """A thread's stack and local memory: anything in there is read from and written to DRAM."""
    shared_bytes: int
    ptx: str


@contextmanager
def launches_of(*modules: ModuleType) -> Iterator[list[Launch]]:
    """The launches of the modules' kernels, none of which is made."""
    launches: list[Launch] = []
    kernels = [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    ]
    try:
        for module, name, kernel in kernels:
            setattr(module, name, _Recorder(kernel, launches))
        yield launches
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)


@dataclass(frozen=True, slots=True)
class _Recorder:
    kernel: JITFunction
    launches: list[Launch]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def record(*arguments: Any, **options: Any) -> None:
            self.launches.append(Launch(self.kernel, grid, arguments, options))

        return record


def compile_launch(launch: Launch, arch: int) -> CompiledKernel:
    """Compile the kernel of a launch for compute capability `arch` / 10; raises Triton's errors.

    Triton keeps what it compiled in its cache, so that a second run of a test is quick.
    """
    target = GPUTarget("cuda", arch, 32)
    backend, kernel = make_backend(target), launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*launch.arguments, debug=False, **launch.options)
    parsed, signature, constexprs, attributes = kernel._pack_args(
        backend, launch.options, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constexprs, attributes)
    compiled = triton.compile(source, target=target, options=parsed.__dict__)
    registers, stack, local = _usage(compiled.asm["cubin"])
    return CompiledKernel(registers, stack + local, compiled.metadata.shared, compiled.asm["ptx"])


def _usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers, and bytes of stack and local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_CUOBJDUMP), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = _USAGE.search(said)
    assert found is not None, said
    registers, stack, _, local = map(int, found.groups())
    return registers, stack, local
