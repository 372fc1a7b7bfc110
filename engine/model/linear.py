"""Linear layers: weights as the checkpoint stores them, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional

from engine.device.collective import Collective


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


@dataclass(frozen=True, slots=True)
class SummedLinear(Linear):
    """A row-parallel linear layer: inputs are divided among ranks, outputs are all-reduced.

    One rank has the bias.
    """

    collective: Collective = field(kw_only=True)

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.collective.all_reduce(functional.linear(inputs, self.weight, self.bias))


def fused_targets(
    module: str, outputs: dict[str, int], linear: Linear
) -> Iterator[tuple[str, Tensor]]:
    """Checkpoint names of layers that one product computes, and the part that each fills.

    `outputs` are their numbers of outputs, in the order in which they lie below each other.
    """
    begin = 0
    for name, count in outputs.items():
        yield f"{module}.{name}.weight", linear.weight[begin : begin + count]
        if linear.bias is not None:
            yield f"{module}.{name}.bias", linear.bias[begin : begin + count]
        begin += count
