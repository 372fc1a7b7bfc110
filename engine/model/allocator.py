"""Uninitialized memory for the parameters of one rank's part of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.device.collective import Collective
from engine.device.memory import empty
from engine.model.linear import Linear, SummedLinear
from engine.model.model_part import ModelPart


@dataclass(frozen=True, slots=True)
class PartAllocator:
    """Allocates the parameters of one model part, all of one dtype on one device."""

    part: ModelPart
    dtype: torch.dtype
    device: torch.device
    collective: Collective

    def tensor(self, *shape: int) -> Tensor:
        return empty(shape, self.dtype, self.device)

    def linear(self, inputs: int, outputs: int, bias: bool) -> Linear:
        """weight [outputs, inputs], and bias [outputs] where there is one."""
        return Linear(self.tensor(outputs, inputs), self.tensor(outputs) if bias else None)

    def summed(self, inputs: int, outputs: int, bias: bool) -> Linear:
        """A linear layer whose inputs are divided among the ranks; one rank adds the bias."""
        part = self.linear(inputs, outputs, bias and self.part.adds_biases)
        if self.part.size == 1:
            return part
        return SummedLinear(part.weight, part.bias, collective=self.collective)

    def vocabulary(self) -> Tensor:
        """[num_vocabulary_rows, hidden_size]; rows behind the rank's own tokens are zero."""
        rows = self.tensor(self.part.num_vocabulary_rows, self.part.config.hidden_size)
        rows[len(self.part.vocabulary) :].zero_()
        return rows
