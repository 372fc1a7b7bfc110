"""The minimum duration of a step, from the bytes it must read and the products it must compute."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of this machine with the given number of threads, measured in the same run."""

    read_bytes_per_s: float
    flops_per_s: float
    """FLOP per second of matrix products in torch, in the dtype of the computation."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a model's steps."""

    layer_weights: int
    """Elements of all matrices that every token uses, without the head."""
    head_weights: int
    """Elements of the output matrix, used once for each sampled token."""
    token_elements: int
    """Elements of one token's keys and values."""
    attention_flops: int
    """FLOP for each pair of a token and one that it attends to."""
    last_weights: int
    """Elements of the last layer's matrices that only a prompt's last token uses."""
    last_flops: int
    """The last layer's part of `attention_flops`, where only the last token attends."""

    @staticmethod
    def of(config: ModelConfig) -> Work:
        query = config.num_heads * config.head_size
        cached = config.num_kv_heads * config.head_size
        inner = 3 * config.hidden_size * config.intermediate_size
        attention = config.hidden_size * (2 * query + 2 * cached)
        return Work(
            layer_weights=config.num_layers * (inner + attention),
            head_weights=config.vocab_size * config.hidden_size,
            token_elements=config.num_layers * 2 * cached,
            attention_flops=config.num_layers * 4 * query,
            last_weights=inner + 2 * config.hidden_size * query,
            last_flops=4 * query,
        )

    def decode_s(self, rates: Rates, element_bytes: int, batch: int, context: int) -> float:
        """Minimum seconds of a decode step for `batch` sequences of `context` tokens."""
        weights = self.layer_weights + self.head_weights
        read_s = weights * element_bytes / rates.read_bytes_per_s
        flops_s = 2 * batch * weights / rates.flops_per_s
        cache_bytes = batch * context * self.token_elements * element_bytes
        return max(read_s, flops_s) + cache_bytes / rates.read_bytes_per_s

    def prefill_s(self, rates: Rates, num_tokens: int) -> float:
        """Minimum seconds of prefill for one prompt, up to its first token."""
        pairs, others = num_tokens * (num_tokens + 1) // 2, num_tokens - 1
        spared = others * self.last_weights
        products = 2 * (num_tokens * self.layer_weights - spared + self.head_weights)
        attention = pairs * self.attention_flops - (pairs - num_tokens) * self.last_flops
        return (products + attention) / rates.flops_per_s
