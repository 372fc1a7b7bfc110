"""Runs Triton kernels on CPU tensors, in Triton's own interpreter.

    with interpreted(engine.cuda.kernels):
        operations.decode(...)  # on tensors in host memory

Triton chooses between interpreter and compiler when a kernel is defined, by an environment
variable. Here kernels that were defined for the compiler are interpreted for a while, so that one
process can do both. Fixtures of tests/cuda/conftest.py do this for the engine's kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton.experimental.gluon  # noqa: F401  # else imported by the first launch, interpreted
import triton.language as tl
from triton.language import core, standard
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, TensorHandle
from triton.runtime.jit import JITFunction

_LANGUAGE: tuple[Any, ...] = (
    *(tl, core, tl.math, tl.random, standard),
    *(tl.tensor, tl.dtype, core.tensor_descriptor_base),
    *(interpreter, interpreter.InterpreterBuilder),
)
"""Whatever is replaced here or by the interpreter, which does not put everything back."""

_TORCH_DTYPES = {
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}


@contextmanager
def interpreted(*modules: ModuleType) -> Iterator[None]:
    """Interpret the kernels of these modules, which may call each other and Triton's own."""
    owners = (*modules, *_LANGUAGE)
    saved = [dict(vars(owner)) for owner in owners]
    interpret = cache(InterpretedFunction)
    try:
        for owner in owners:
            for name, value in list(vars(owner).items()):
                if isinstance(value, JITFunction):
                    setattr(owner, name, interpret(value.fn))
        _patch()
        yield
    finally:
        InterpretedFunction.rewritten_fn.clear()  # these refer to names that are removed now
        for owner, before in zip(owners, saved, strict=True):
            _restore(owner, before)


def _patch() -> None:
    """Replace Triton's language once; by itself the interpreter does so for every call."""
    interpreter._patch_lang(
        _patch
    )  # of the functions whose module has `tl` and `core`, as this one
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()
    interpreter.InterpreterBuilder.create_dot = _multiply
    interpreter._convert_float = _cast


def _restore(owner: Any, before: dict[str, Any]) -> None:
    for name, value in list(vars(owner).items()):
        if name not in before:
            delattr(owner, name)
        elif value is not before[name]:
            setattr(owner, name, before[name])


def _multiply(
    self: object, left: Any, right: Any, added: Any, precision: object, imprecise: object
) -> TensorHandle:
    """`dot` of numbers: the interpreter multiplies bits of bfloat16 as if they were integers."""
    product = np.matmul(_widen(left), _widen(right), dtype=added.data.dtype)
    return TensorHandle(product + added.data, added.dtype.scalar)


def _widen(handle: Any) -> np.ndarray:
    if handle.dtype.scalar in (tl.bfloat16, tl.float8e4nv, tl.float8e5):
        return _cast(handle.data, handle.dtype.scalar, tl.float32, None).view(np.float32)
    return handle.data


def _cast(values: np.ndarray, source: Any, target: Any, rounding: object) -> np.ndarray:
    """Round to nearest even, as GPUs do, and to the largest in 8 bits; the interpreter truncates.

    Takes and returns bits; unsigned integers of the dtype's width are what comes out.
    """
    bits = np.ascontiguousarray(values).view(_unsigned(source))
    numbers = torch.from_numpy(bits.copy()).view(_TORCH_DTYPES[source])
    wanted = _TORCH_DTYPES[target]
    if wanted.itemsize == 1:
        limit = torch.finfo(wanted).max
        numbers = numbers.float().clamp(-limit, limit)
    cast = numbers.to(wanted)
    plain = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[wanted.itemsize]
    return cast.view(plain).numpy().reshape(values.shape)


def _unsigned(dtype: Any) -> str:
    return f"u{dtype.primitive_bitwidth // 8}"
