"""The least time that a step can take: bytes that must be read, and products that must be made."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Rates:
    """What this machine gives to so many threads, measured in the same run."""

    read_bytes_per_s: float
    flops_per_s: float
    """Of matrix products in torch, in the dtype that is computed in."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a model makes a machine do."""

    layer_weights: int
    """Elements of all matrices that every token passes through, but for the head."""
    head_weights: int
    """Elements of the output matrix, used once for each token that is drawn."""
    token_elements: int
    """Elements of one token's keys and values."""
    attention_flops: int
    """For each pair of a token and one that it sees."""
    last_weights: int
    """Of the last layer's, those that only a prompt's last token must pass through."""
    last_flops: int
    """Of `attention_flops`, those of the last layer, where only that token attends."""

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
        """One token for each of `batch` sequences of `context` tokens."""
        weights = self.layer_weights + self.head_weights
        read_s = weights * element_bytes / rates.read_bytes_per_s
        flops_s = 2 * batch * weights / rates.flops_per_s
        cache_bytes = batch * context * self.token_elements * element_bytes
        return max(read_s, flops_s) + cache_bytes / rates.read_bytes_per_s

    def prefill_s(self, rates: Rates, num_tokens: int) -> float:
        """One prompt, and its first token."""
        pairs, others = num_tokens * (num_tokens + 1) // 2, num_tokens - 1
        spared = others * self.last_weights
        products = 2 * (num_tokens * self.layer_weights - spared + self.head_weights)
        attention = pairs * self.attention_flops - (pairs - num_tokens) * self.last_flops
        return (products + attention) / rates.flops_per_s
