"""Samples from an exported checkpoint, asked through its chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from .model import load_model
from .tokenizer import load_tokenizer

PROMPTS = (
    "def read_lines(path):",
    "class Stack:",
    "Write a function that returns the sum of a list.",
    "def __repr__(self):",
    "def close(self):",
    "Write a function that returns true if the file exists.",
)


def answer(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    temperature: float,
    seed: int,
    limit: int = 320,
) -> str:
    """One answer; temperature nought is greedy."""
    torch.manual_seed(seed)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(str(text), add_special_tokens=False, return_tensors="pt")
    sampling = {"temperature": temperature, "top_p": 0.95} if temperature else {}
    # transformers types generate() for a protocol that its own models do not meet
    generate = cast(Callable[..., torch.Tensor], model.generate)  # type: ignore[misc]
    output = generate(**inputs, max_new_tokens=limit, do_sample=temperature > 0, **sampling)
    new = output[0, inputs["input_ids"].shape[1] :]
    ended = "" if new[-1] == tokenizer.eos_token_id else " [cut]"
    return str(tokenizer.decode(new, skip_special_tokens=True)) + ended


def samples(folder: Path, temperature: float, seed: int) -> Iterator[str]:
    """An answer to each of the prompts; the same ones for the same seed."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for prompt in PROMPTS:
        yield f"### {prompt}\n{answer(model, tokenizer, prompt, temperature, seed)}\n"
