"""Checkpoints with real shapes and random weights, for measurements that depend on sizes alone.

python -m benchmarks.checkpoints 125m DIR

Needs transformers, which is among the dev dependencies.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.bundled import BUNDLED_MODEL

MAX_POSITIONS = 16384
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a Llama-like decoder."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    """Whether the output layer shares the embedding's weights."""


SHAPES = {
    "125m": Shape(768, 12, 12, 4, 2048, 32000, tied=False),
    "0.5b": Shape(896, 24, 14, 2, 4864, 151936, tied=True),
}


@contextmanager
def directory_of(model: str, cache: Path | None = None) -> Iterator[Path]:
    """The directory itself, or the checkpoint for a shape's name."""
    if model not in SHAPES:
        yield Path(model)
        return
    with checkpoint(model, cache) as directory:
        yield directory


@contextmanager
def checkpoint(name: str, cache: Path | None = None) -> Iterator[Path]:
    """The directory of a checkpoint: kept in `cache`, or temporary."""
    if cache is not None:
        yield make(name, cache / name)
        return
    with tempfile.TemporaryDirectory(prefix=f"checkpoint-{name}-") as directory:
        yield make(name, Path(directory) / name)


def make(name: str, directory: Path) -> Path:
    """Write a checkpoint in bfloat16, unless it exists; its tokenizer is the bundled model's."""
    if (directory / "config.json").exists():
        return directory
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(SHAPES[name], unfinished)
    return unfinished.rename(directory)


def write(shape: Shape, directory: Path) -> None:
    """Write into an empty directory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=MAX_POSITIONS,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    model.save_pretrained(directory)
    for file in TOKENIZER_FILES:
        shutil.copy(BUNDLED_MODEL / file, directory)


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.")],
    directory: Annotated[Path, typer.Argument(help="Where to write it.")],
) -> None:
    if name not in SHAPES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SHAPES)}")
    print(make(name, directory))


if __name__ == "__main__":
    typer.run(main)
