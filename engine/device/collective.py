"""Collectives between the tensor-parallel ranks of a model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """Collectives of ranks 0 to size - 1. Each makes the same calls, in order, on equal shapes.

    A call that can never end, because another rank is dead, raises RuntimeError.
    """

    rank: int
    size: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """`tensor` itself, which becomes the sum of all ranks' tensors; the same bits on each."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """All ranks' tensors, in the order of ranks, on rank 0; nothing on the others."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite all ranks' `tensor` with that of rank 0."""
        ...


class SingleRank:
    """The collectives of a model that is not divided."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def broadcast(self, tensor: Tensor) -> None:
        """The only rank has the tensor."""
