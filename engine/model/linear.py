"""Linear layers: weights as the checkpoint stores them, row by row, whichever kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from engine.collective import Collective

_PIECE_BYTES = 16 << 20
"""Of a weight that is turned into floats for a product: well within a cache, and no second copy."""


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W^T + b, with the weight in the model's dtype.

    weight [outputs, inputs], bias [outputs] or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[tokens, inputs] -> [tokens, outputs]"""
        return functional.linear(inputs, self.weight, self.bias)

    def add_to(self, output: Tensor, inputs: Tensor, *, keep: bool, narrows: bool) -> None:
        """Products of many float32 rows; `output` keeps what it holds and gains, or is replaced.

        With `narrows`, rows are rounded to bfloat16, if the weight is, for this CPU multiplies it.

        inputs [tokens, inputs], output [tokens, outputs]; both float32 on a CPU.
        """
        if self.weight.dtype == torch.float32:
            _add_product(output, inputs, self.weight, keep)
        elif narrows:
            product = functional.linear(inputs.to(self.weight.dtype), self.weight)
            output.add_(product) if keep else output.copy_(product)
        else:
            self._add_widened(output, inputs, keep)
        if self.bias is not None:
            output.add_(self.bias)

    def _add_widened(self, output: Tensor, inputs: Tensor, keep: bool) -> None:
        """Without instructions for it, a product in bfloat16 takes five times one in float32."""
        count = max(1, _PIECE_BYTES // (4 * self.weight.shape[1]))
        for first in range(0, len(self.weight), count):
            piece = self.weight[first : first + count].float()
            _add_product(output[:, first : first + count], inputs, piece, keep)


@dataclass(frozen=True, slots=True)
class SummedLinear(Linear):
    """A product whose inputs are divided among ranks: each has its part, and all get the sum.

    One rank has the bias.
    """

    collective: Collective = field(kw_only=True)

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.collective.add_up(functional.linear(inputs, self.weight, self.bias))


def multiplies_bfloat16() -> bool:
    """True when this CPU has instructions for products of bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _add_product(output: Tensor, inputs: Tensor, weight: Tensor, keep: bool) -> None:
    output.addmm_(inputs, weight.t(), beta=1 if keep else 0)
