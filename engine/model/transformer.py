"""The decoder of the Llama family: embed, then attend and transform layer by layer, then norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from engine.attention.backend import AttentionBatch
from engine.model.config import ModelConfig
from engine.model.parameters import LayerParameters, Parameters
from engine.model.rope import Rope, rotate


class Transformer:
    """Llama, Mistral, Qwen2 and Qwen3: pre-norm blocks of grouped-query attention and SwiGLU.

    They differ in biases, in norms on query and key heads, and in sliding windows.
    """

    def __init__(self, config: ModelConfig, parameters: Parameters, device: torch.device) -> None:
        self._config = config
        self._parameters = parameters
        self._rope = Rope(config.rope, config.head_size, device)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        lengths: Tensor,
        batch: AttentionBatch,
        on_layer: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Token ids, positions and RoPE lengths, each [tokens] -> hidden [tokens, hidden_size].

        The tokens' keys and values are left in the batch's cache; `on_layer(n)` is called after n
        layers.
        """
        hidden = functional.embedding(token_ids, self._parameters.embedding)
        rotation = self._rope.rotation(positions, lengths, hidden.dtype)
        for number, layer in enumerate(self._parameters.layers):
            attended = self._attention(number, layer, hidden, rotation, batch)
            hidden = self._feed_forward(layer, hidden + attended)
            if on_layer is not None:
                on_layer(number + 1)
        return self._norm(hidden, self._parameters.final_norm)

    def skip_layers(self) -> None:
        """Run none from now on."""
        self._parameters = replace(self._parameters, layers=())

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden_size] -> float32 [rows, vocab_size]"""
        return self._parameters.head(hidden).float()

    def _attention(
        self,
        number: int,
        layer: LayerParameters,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        batch: AttentionBatch,
    ) -> Tensor:
        fused = layer.qkv(self._norm(hidden, layer.input_norm))
        num_heads, num_kv_heads = self._config.num_heads, self._config.num_kv_heads
        heads = fused.view(len(fused), num_heads + 2 * num_kv_heads, self._config.head_size)
        query, key = heads[:, :num_heads], heads[:, num_heads : num_heads + num_kv_heads]
        value = heads[:, num_heads + num_kv_heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self._norm(query, layer.query_norm), self._norm(key, layer.key_norm)
        query, key = rotate(query, rotation), rotate(key, rotation)
        return layer.output(batch.attend(number, query, key, value).flatten(1))

    def _feed_forward(self, layer: LayerParameters, hidden: Tensor) -> Tensor:
        gate, up = layer.gate_up(self._norm(hidden, layer.post_attention_norm)).chunk(2, dim=-1)
        return hidden + layer.down(functional.silu(gate) * up)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._config.rms_norm_eps)
