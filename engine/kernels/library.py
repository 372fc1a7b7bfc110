"""The compiled kernels as functions, and the structures that they are given.

Structures mirror those of the same name in the C++ sources; all pointers are borrowed, so that
the code that fills one in keeps the tensors alive.
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import POINTER, Structure, c_float, c_long, c_void_p
from pathlib import Path

from torch import Tensor

from engine.errors import KernelError
from engine.kernels.build import default_cache, find_or_build

log = logging.getLogger(__name__)

PANEL = 16
"""Outputs of a panel, as in panels.h."""


class PanelMatrix(Structure):
    """A weight in panels; `tail` is a last one of fewer outputs, bias [outputs] or null."""

    _fields_ = (
        ("weight", c_void_p),
        ("tail", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_long),
        ("outputs", c_long),
    )


class LayerArguments(Structure):
    """Norms are null where the model has none; window 0 is full attention."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("qkv", PanelMatrix),
        ("output", PanelMatrix),
        ("gate_up", PanelMatrix),
        ("down", PanelMatrix),
        ("window", c_long),
    )


class ModelArguments(Structure):
    """The sizes that all layers share; `narrows` rounds what products read to bfloat16."""

    _fields_ = (
        ("hidden", c_long),
        ("inner", c_long),
        ("heads", c_long),
        ("kv_heads", c_long),
        ("head_size", c_long),
        ("is_bf16", c_long),
        ("narrows", c_long),
        ("eps", c_float),
    )


class CacheArguments(Structure):
    """[blocks, layers, 2, kv_heads, block_size, head_size]"""

    _fields_ = (
        ("base", c_void_p),
        ("layers", c_long),
        ("block_size", c_long),
        ("is_bf16", c_long),
    )


class StepArguments(Structure):
    """`spans` are a step's sequences: rows of (row, start, count, index into `blocks`), int64.

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
    """The functions of one compiled library; KernelError when it cannot be loaded.

    `target` names the instructions that it was compiled for.
    """

    def __init__(self, path: Path, target: str) -> None:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelError(f"{path} cannot be loaded: {error}") from error
        self.target = target
        model, step, layer, linear = map(
            POINTER, (ModelArguments, StepArguments, LayerArguments, PanelMatrix)
        )
        whole = (model, layer, POINTER(CacheArguments), step, c_long)
        self.layers = _function(library.tandem_layers, *whole, c_long)
        self.begin_layer = _function(library.tandem_begin_layer, *whole)
        self.complete_layer = _function(library.tandem_complete_layer, *whole)
        self.normalize = _function(library.tandem_normalize, model, c_void_p, step, c_void_p)
        rows = (c_void_p, c_long, c_void_p)
        self.linear = _function(library.tandem_linear, model, linear, *rows, c_void_p, c_long)
        self.turn = _function(library.tandem_turn, c_void_p, c_long, c_long, c_void_p, c_long)
        self.read = _function(library.tandem_read, linear, c_long, c_void_p, c_long, c_void_p)
        self.packed_size = _function(library.tandem_packed_size, c_long, c_long, returns=c_long)
        """Floats of scratch memory that a product takes, by its rows and inputs."""
        self.can_narrow = bool(_function(library.tandem_can_narrow, returns=c_long)())
        """Whether the CPU multiplies bfloat16 itself."""


def try_load_kernels() -> Kernels | None:
    """Load shipped or cached kernels, or compile them; None, with a warning, if that fails."""
    try:
        return Kernels(*find_or_build(default_cache()))
    except KernelError as error:
        log.warning("PyTorch's own operations serve, at a fraction of the speed: %s", error)
        return None


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _function(
    found: ctypes._NamedFuncPointer, *arguments: type, returns: type | None = None
) -> ctypes._NamedFuncPointer:
    found.argtypes, found.restype = arguments, returns
    return found
