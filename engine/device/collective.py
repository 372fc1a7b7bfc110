"""What the ranks of one model say to each other while they compute."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """The ranks 0 to size - 1. Each makes the same calls, in the same order, on equal shapes.

    A call that can never end, because another rank is dead, raises RuntimeError.
    """

    rank: int
    size: int

    def add_up(self, tensor: Tensor) -> Tensor:
        """`tensor` itself, which becomes the sum of all ranks' tensors; the same bits on each."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """All ranks' tensors, in the order of ranks, on rank 0; nothing on the others."""
        ...

    def hand_out(self, tensor: Tensor) -> None:
        """Overwrite all ranks' `tensor` with that of rank 0."""
        ...


class Alone:
    """One rank has nobody to talk to."""

    rank = 0
    size = 1

    def add_up(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def hand_out(self, tensor: Tensor) -> None:
        """It is where it belongs."""
