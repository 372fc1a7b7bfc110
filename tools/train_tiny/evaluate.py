"""Held-out loss: the exported weights against the trigram, over the same tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from .corpus import load_corpus
from .data import Tokens, encode_file
from .model import load_model, parameters
from .tokenizer import load_tokenizer
from .trigram import baseline_nats

WINDOW = 512


@dataclass(frozen=True)
class Figures:
    """Evaluation results for the model card."""

    parameters: int
    train_files: int
    train_bytes: int
    held_out_files: int
    held_out_bytes: int
    held_out_tokens: int
    model_nats_per_token: float
    trigram_nats_per_token: float
    model_bits_per_byte: float
    trigram_bits_per_byte: float


def spans(length: int, window: int) -> list[tuple[int, int, int]]:
    """Windows over a text as (start, end, first token that counts).

    Each overlaps half of the one before, so that a token has context to be told from.
    """
    found, counted = [], 1
    while counted < length:
        start = max(0, counted - window // 2) if counted > 1 else 0
        end = min(length, start + window)
        found.append((start, end, counted))
        counted = end
    return found


@torch.inference_mode()
def text_nats(model: LlamaForCausalLM, text: Tokens, window: int) -> float:
    """The negative log-probability of a text's tokens after its first."""
    total = 0.0
    for start, end, counted in spans(len(text), window):
        ids = torch.from_numpy(text[start:end])[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, counted - start - 1 : -1]
        targets = ids[0, counted - start :]
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total


def bits_per_byte(nats: float, size: int) -> float:
    """Loss in the unit that depends on no tokenizer."""
    return nats / math.log(2.0) / size


def sizes(texts: Sequence[str]) -> int:
    """Bytes of texts in UTF-8."""
    return sum(len(text.encode()) for text in texts)


def evaluate(folder: Path) -> Figures:
    """Both losses on the held-out files; a file's end counts as a token to be told."""
    corpus, tokenizer, model = load_corpus(), load_tokenizer(folder), load_model(folder)
    train = [encode_file(tokenizer, file) for file in corpus.train]
    held_out = [encode_file(tokenizer, file) for file in corpus.held_out]
    tokens = int(np.sum([len(text) - 1 for text in held_out]))
    size = sizes([file.text for file in corpus.held_out])
    nats = sum(text_nats(model, text, WINDOW) for text in held_out)
    trigram = baseline_nats(train, held_out, len(tokenizer))
    return Figures(
        parameters=parameters(model),
        train_files=len(train),
        train_bytes=sizes([file.text for file in corpus.train]),
        held_out_files=len(held_out),
        held_out_bytes=size,
        held_out_tokens=tokens,
        model_nats_per_token=nats / tokens,
        trigram_nats_per_token=trigram / tokens,
        model_bits_per_byte=bits_per_byte(nats, size),
        trigram_bits_per_byte=bits_per_byte(trigram, size),
    )


def as_json(figures: Figures) -> str:
    """The figures for people and for scripts."""
    return json.dumps(asdict(figures), indent=2)
