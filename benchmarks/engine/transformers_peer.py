"""The model as implemented in transformers, with the same prompts and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.ours import Cost, median_cost, timed_cost


class Transformers:
    """Greedy decoding with the model's forward pass and its own cache."""

    def __init__(self, directory: Path, dtype: str) -> None:
        from transformers import AutoModelForCausalLM

        self.name = f"transformers {dtype}"
        wanted = getattr(torch, dtype)
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=wanted).eval()
        self._vocab_size = int(self._model.config.vocab_size)

    @torch.inference_mode()
    def prefill(self, num_tokens: int, rounds: int) -> Cost:
        """Prefill a prompt in one step, up to its first token."""
        costs = []
        for _ in range(rounds + 1):
            prompt = torch.randint(5, self._vocab_size, (1, num_tokens))
            costs.append(timed_cost(lambda prompt=prompt: self._step(prompt, None)))
        return median_cost(costs[1:])

    @torch.inference_mode()
    def decode(self, batch: int, context: int, rounds: int) -> Cost:
        """Run one decode step of `batch` sequences with equal lengths."""
        tokens, cache = self._step(torch.randint(5, self._vocab_size, (batch, context)), None)
        costs = []
        for _ in range(rounds + 1):
            costs.append(timed_cost(lambda: self._step(tokens, cache)))
        return median_cost(costs[1:])

    def _step(self, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        found = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1:].argmax(-1), found.past_key_values
