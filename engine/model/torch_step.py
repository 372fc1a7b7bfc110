"""One step through the layers with PyTorch's operations, on any device and in any dtype."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engine.attention.backend import AttentionBatch
from engine.model.config import ModelConfig
from engine.model.parameters import LayerParameters, Parameters
from engine.model.rope import rotate


class TorchStep:
    """Transforms `hidden` [tokens, hidden_size]; see engine.model.transformer.Computation."""

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        batch: AttentionBatch,
    ) -> None:
        self._config = config
        self._parameters = parameters
        self._hidden = hidden
        self._rotation = rotation
        self._batch = batch

    def layers(self, begin: int, end: int) -> None:
        for number in range(begin, end):
            layer = self._parameters.layers[number]
            self._hidden = self._hidden + self._attention(number, layer)
            normed = self._norm(self._hidden, layer.post_attention_norm)
            self._hidden = self._hidden + layer.feed_forward(normed, swiglu)

    def finish(self) -> Tensor:
        return self._norm(self._hidden, self._parameters.final_norm)

    def _attention(self, number: int, layer: LayerParameters) -> Tensor:
        fused = layer.qkv(self._norm(self._hidden, layer.input_norm))
        num_heads, num_kv_heads = self._config.num_heads, self._config.num_kv_heads
        heads = fused.view(len(fused), num_heads + 2 * num_kv_heads, self._config.head_size)
        query, key = heads[:, :num_heads], heads[:, num_heads : num_heads + num_kv_heads]
        value = heads[:, num_heads + num_kv_heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self._norm(query, layer.query_norm), self._norm(key, layer.key_norm)
        query, key = rotate(query, self._rotation), rotate(key, self._rotation)
        return layer.output(self._batch.attend(number, query, key, value).flatten(1))

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._config.rms_norm_eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """See engine.model.feed_forward.Activation."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
