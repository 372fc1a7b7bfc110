"""The feed-forward of a decoder layer, behind one interface for all kinds of it.

A layer holds one `FeedForward`. The checkpoint reader fills its `targets`, and every kind of step
calls it with an activation of its own: PyTorch's operations, a fused kernel on a GPU. Compiled
kernels compute whole layers and read `kernel_matrices` instead. Another kind, such as a mixture of
experts, is another class here and another branch in `allocate_feed_forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.model.allocator import PartAllocator
from engine.model.linear import Linear, fused_targets

Activation = Callable[[Tensor], Tensor]
"""Gate and up beside each other, [tokens, 2 * inner] -> silu(gate) * up [tokens, inner]."""


class FeedForward(Protocol):
    """The parameters of one layer's feed-forward, and how they are applied."""

    def __call__(self, hidden: Tensor, activate: Activation) -> Tensor:
        """Normed hidden states [tokens, hidden_size] -> what the layer adds, of that shape."""
        ...

    def targets(self) -> Iterator[tuple[str, Tensor]]:
        """Checkpoint tensor names within the layer, and the contiguous memory that each fills."""
        ...

    @property
    def kernel_matrices(self) -> tuple[Linear, Linear] | None:
        """`gate_up` and `down` for the compiled kernels, None where they cannot compute this."""
        ...


@dataclass(frozen=True, slots=True)
class DenseFeedForward:
    """SwiGLU: down(silu(gate(x)) * up(x)). One product computes gate and up.

    gate_up [2 * inner, hidden_size], down [hidden_size, inner].
    """

    gate_up: Linear
    down: Linear

    def __call__(self, hidden: Tensor, activate: Activation) -> Tensor:
        return self.down(activate(self.gate_up(hidden)))

    def targets(self) -> Iterator[tuple[str, Tensor]]:
        inner, hidden_size = self.down.inputs, self.down.outputs
        yield from fused_targets("mlp", {"gate_proj": inner, "up_proj": inner}, self.gate_up)
        yield from fused_targets("mlp", {"down_proj": hidden_size}, self.down)

    @property
    def kernel_matrices(self) -> tuple[Linear, Linear] | None:
        return self.gate_up, self.down


def allocate_feed_forward(allocator: PartAllocator) -> FeedForward:
    """The kind that the model's configuration asks for, uninitialized."""
    config = allocator.part.config
    hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
    return DenseFeedForward(
        gate_up=allocator.linear(hidden, 2 * inner, bias),
        down=allocator.summed(inner, hidden, bias),
    )
