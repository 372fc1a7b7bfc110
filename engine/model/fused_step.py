"""One step through the layers with fused kernels, on a GPU."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engine.attention.backend import AttentionBatch
from engine.cuda.operations import add_norm, gate, rotate_and_store
from engine.model.config import ModelConfig
from engine.model.parameters import LayerParameters, Parameters


class FusedStep:
    """`hidden` [tokens, hidden_size] is changed in place; `rotation` is float32.

    A layer is four products, attention, and four kernels between them. A layer's output is kept
    apart until the next norm adds it. See engine.model.transformer.Computation.
    """

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
        self._added: Tensor | None = None
        self._rotation = rotation
        self._batch = batch

    def layers(self, begin: int, end: int) -> None:
        for number in range(begin, end):
            layer = self._parameters.layers[number]
            self._added = self._attention(number, layer, self._norm(layer.input_norm))
            self._added = layer.feed_forward(self._norm(layer.post_attention_norm), gate)

    def finish(self) -> Tensor:
        return self._norm(self._parameters.final_norm)

    def _attention(self, number: int, layer: LayerParameters, normed: Tensor) -> Tensor:
        config = self._config
        num_heads, num_kv_heads = config.num_heads, config.num_kv_heads
        heads = layer.qkv(normed).view(-1, num_heads + 2 * num_kv_heads, config.head_size)
        query, key = heads[:, :num_heads], heads[:, num_heads : num_heads + num_kv_heads]
        for part, weight in ((query, layer.query_norm), (key, layer.key_norm)):
            if weight is not None:
                part.copy_(functional.rms_norm(part, weight.shape, weight, config.rms_norm_eps))
        batch = self._batch
        scales = None if batch.scales is None else batch.scales[:, number]
        rotate_and_store(heads, self._rotation, batch.cache[:, number], scales, batch.token_slots)
        return layer.output(batch.read(number, query).flatten(1))

    def _norm(self, weight: Tensor) -> Tensor:
        added, self._added = self._added, None
        return add_norm(self._hidden, added, weight, self._config.rms_norm_eps)
