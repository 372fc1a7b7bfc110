"""A linear layer that knows how its weight is stored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W^T + b, with the weight stored plainly in the model's dtype.

    weight [outputs, inputs], bias [outputs] or None. Other storages are other classes with the
    same call.
    """

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """[tokens, inputs] -> [tokens, outputs]"""
        return functional.linear(inputs, self.weight, self.bias)
