"""A layer's feed-forward is one object: another kind takes its place without another decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.attention.torch_backend import TorchBackend
from engine.model.config import ModelConfig, read_config
from engine.model.feed_forward import Activation, DenseFeedForward, FeedForward
from engine.model.linear import Linear
from engine.model.parameters import Parameters, allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import find_weights, load_weights

CPU = torch.device("cpu")
NUM_TOKENS = 12


@dataclass(frozen=True)
class TwoHalves:
    """Two dense feed-forwards of half the width each, whose sum is the whole one."""

    halves: tuple[DenseFeedForward, DenseFeedForward]

    @staticmethod
    def of(whole: FeedForward) -> TwoHalves:
        assert isinstance(whole, DenseFeedForward)
        gates, ups = whole.gate_up.weight.chunk(2)
        parts = zip(gates.chunk(2), ups.chunk(2), whole.down.weight.chunk(2, dim=1), strict=True)
        first, second = (
            DenseFeedForward(Linear(torch.cat([gate, up])), Linear(down.contiguous()))
            for gate, up, down in parts
        )
        return TwoHalves((first, second))

    def __call__(self, hidden: Tensor, activate: Activation) -> Tensor:
        first, second = self.halves
        return first(hidden, activate) + second(hidden, activate)

    def targets(self) -> Iterator[tuple[str, Tensor]]:
        yield from ()

    @property
    def kernel_matrices(self) -> tuple[Linear, Linear] | None:
        return None


def load(directory: Path) -> tuple[ModelConfig, Parameters]:
    config = read_config(directory)
    parameters = allocate_parameters(config, torch.float32, CPU)
    load_weights(find_weights(directory), checkpoint_targets(config, parameters))
    return config, parameters


def hidden_of(model: Transformer, config: ModelConfig) -> Tensor:
    shape = (4, config.num_layers, 2, config.num_kv_heads, 4, config.head_size)
    backend = TorchBackend(torch.zeros(shape), config.windows)
    batch = backend.prepare([SequenceRows(0, NUM_TOKENS, range(4))])
    positions = torch.arange(NUM_TOKENS)
    with torch.inference_mode():
        return model.forward(positions + 5, positions, positions + 1, batch)


def test_another_kind_of_feed_forward_runs_in_the_same_decoder(
    checkpoint: Callable[[str], Path],
) -> None:
    config, parameters = load(checkpoint("llama"))
    expected = hidden_of(Transformer(config, parameters, CPU, native=False), config)
    layers = tuple(
        replace(layer, feed_forward=TwoHalves.of(layer.feed_forward)) for layer in parameters.layers
    )
    model = Transformer(config, replace(parameters, layers=layers), CPU)
    assert not model.native, "the compiled kernels know the dense kind only"
    torch.testing.assert_close(hidden_of(model, config), expected)


def test_a_feed_forward_names_what_it_reads_of_a_checkpoint(
    checkpoint: Callable[[str], Path],
) -> None:
    _, parameters = load(checkpoint("llama-biased"))
    names = [name for name, _ in parameters.layers[0].feed_forward.targets()]
    modules = ("gate_proj", "up_proj", "down_proj")
    assert names == [f"mlp.{module}.{kind}" for module in modules for kind in ("weight", "bias")]
