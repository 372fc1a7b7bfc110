"""Hugging Face transformers as the judge."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCAB_SIZE = 101


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random token ids; prompts of one seed begin alike."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCAB_SIZE, (512,), generator=generator)[:length].tolist())


class Reference:
    """One checkpoint in float32, loaded afresh for each answer: dynamic RoPE has a memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.greedy = cache(self._greedy)

    def logits(self, tokens: Seq[int]) -> Tensor:
        """[tokens, vocab_size] of one forward pass."""
        with torch.inference_mode():
            return self._load()(torch.tensor([list(tokens)])).logits[0]

    def _greedy(self, tokens: tuple[int, ...], count: int) -> list[int]:
        generated = self._load().generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return generated[0, len(tokens) :].tolist()

    def _load(self) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(self._directory, dtype=torch.float32).eval()
