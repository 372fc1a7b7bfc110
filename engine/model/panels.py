"""Weights packed into panels, the order in which compiled kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels import library
from engine.kernels.library import PANEL, Kernels, address
from engine.model.linear import Linear

_NUMBER_BYTES = 4
"""Kernels move numbers of four bytes: one float, or two of bfloat16."""


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """`structure` points into `kept`."""

    structure: library.PanelMatrix
    kept: tuple[Tensor | None, ...]


def pack(kernels: Kernels, linear: Linear) -> PackedLinear:
    """Reorder a weight into panels in place; afterwards only the kernels can read it.

    A last panel of fewer outputs is a copy, as is all of a weight of bfloat16 whose inputs are odd.
    """
    weight, per_number = linear.weight, _NUMBER_BYTES // linear.weight.element_size()
    if linear.inputs % per_number:
        weight = functional.pad(weight, (0, 1))
    count, num_whole = weight.shape[1] // per_number, linear.outputs // PANEL
    tail, rest = None, weight[num_whole * PANEL :]
    if len(rest):
        tail = weight.new_zeros(PANEL, weight.shape[1])
        tail[: len(rest)] = rest
        _turn(kernels, tail, 1, count)
    _turn(kernels, weight, num_whole, count)
    structure = library.PanelMatrix(
        address(weight), address(tail), address(linear.bias), linear.inputs, linear.outputs
    )
    return PackedLinear(structure, (weight, tail, linear.bias))


def _turn(kernels: Kernels, rows: Tensor, num_panels: int, count: int) -> None:
    threads = min(torch.get_num_threads(), max(1, num_panels))
    spare = torch.empty(threads * PANEL * count)
    kernels.turn(rows.data_ptr(), num_panels, count, spare.data_ptr(), threads)
