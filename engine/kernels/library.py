"""The compiled kernels as functions, and the structures that they are given.

Structures mirror those of the same name in the C++ sources; all pointers are borrowed, so that
whoever fills one in keeps the tensors alive.
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import POINTER, Structure, c_float, c_long, c_void_p
from pathlib import Path

from torch import Tensor

from engine.errors import KernelError
from engine.kernels.build import build, default_cache

log = logging.getLogger(__name__)

_CHUNK = 32
"""As in linear.h."""


class Linear(Structure):
    """weight [outputs, inputs], bias [outputs] or null."""

    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_long),
        ("outputs", c_long),
    )


class Layer(Structure):
    """Norms are null where the model has none; window 0 is full attention."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("qkv", Linear),
        ("output", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("window", c_long),
    )


class Model(Structure):
    """The sizes that all layers share."""

    _fields_ = (
        ("hidden", c_long),
        ("inner", c_long),
        ("heads", c_long),
        ("kv_heads", c_long),
        ("head_size", c_long),
        ("is_bf16", c_long),
        ("eps", c_float),
    )


class Cache(Structure):
    """[blocks, layers, 2, kv_heads, block_size, head_size]"""

    _fields_ = (
        ("base", c_void_p),
        ("layers", c_long),
        ("block_size", c_long),
        ("is_bf16", c_long),
    )


class Step(Structure):
    """`spans` are rows of (row, start, count, index into `blocks`), four 64 bit integers.

    Rotations lie by position, or by row where positions do not tell them.
    """

    _fields_ = (
        ("rows", c_long),
        ("num_spans", c_long),
        ("num_threads", c_long),
        ("by_position", c_long),
        ("spans", c_void_p),
        ("blocks", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("hidden", c_void_p),
        ("narrow", c_void_p),
        ("wide", c_void_p),
        ("packed", c_void_p),
    )


class Kernels:
    """The functions of one compiled library; KernelError when it cannot be loaded."""

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelError(f"{path} cannot be loaded: {error}") from error
        model, step, layer = POINTER(Model), POINTER(Step), POINTER(Layer)
        whole = (model, layer, POINTER(Cache), step, c_long)
        self.layers = _function(library.tandem_layers, *whole, c_long)
        self.attend = _function(library.tandem_attend, *whole)
        self.place = _function(library.tandem_place, *whole)
        self.complete = _function(library.tandem_complete, *whole)
        self.normalize = _function(library.tandem_normalize, model, c_void_p, step, c_void_p)
        self.gate = _function(library.tandem_gate, model, step)
        linear = (POINTER(Linear), c_long, c_void_p, c_long, c_void_p, c_void_p, c_long)
        self.linear = _function(library.tandem_linear, *linear)


def try_load_kernels() -> Kernels | None:
    """Compiled now or earlier; None, with a warning that says why, when that is impossible."""
    try:
        return Kernels(build(default_cache()))
    except KernelError as error:
        log.warning("PyTorch's own operations serve, at a fraction of the speed: %s", error)
        return None


def packed_size(inputs: int) -> int:
    """Floats that a row of so many inputs takes where products read it."""
    return -(-inputs // _CHUNK) * _CHUNK


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _function(found: ctypes._NamedFuncPointer, *arguments: type) -> ctypes._NamedFuncPointer:
    found.argtypes, found.restype = arguments, None
    return found
