"""Shapes of published models, and the launches of the engine's kernels that each leads to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from engine.cuda import decode_kernels, kernels, operations, splits
from tests.cuda.aot import Launch, launches_of

MULTIPROCESSORS = 132
BLOCK_SIZE = 16
LONG, SHORT = 131_072 // BLOCK_SIZE, 4
"""Widths of block tables: those of captured graphs, and of contexts that stay whole."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One rank's part of a model."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    window: int | None = None

    def part(self, ranks: int) -> Shape:
        cut = {"inner": self.inner // ranks, "heads": self.heads // ranks}
        return replace(self, **cut, kv_heads=max(1, self.kv_heads // ranks))


LLAMA_8B = Shape(4096, 14336, 32, 8, 128)
LLAMA_70B = Shape(8192, 28672, 64, 8, 128)
SHAPES = {
    "llama-3.2-1b": Shape(2048, 8192, 32, 8, 64),
    "llama-3.2-3b": Shape(3072, 8192, 24, 8, 128),
    "llama-3.1-8b": LLAMA_8B,
    "llama-3.1-8b of 2 ranks": LLAMA_8B.part(2),
    "llama-3.1-70b of 2 ranks": LLAMA_70B.part(2),
    "llama-3.1-70b of 8 ranks": LLAMA_70B.part(8),
    "qwen2.5-0.5b": Shape(896, 4864, 14, 2, 64),
    "qwen2.5-1.5b": Shape(1536, 8960, 12, 2, 128),
    "qwen2.5-7b": Shape(3584, 18944, 28, 4, 128),
    "qwen2.5-32b": Shape(5120, 27648, 40, 8, 128),
    "qwen2.5-72b of 4 ranks": Shape(8192, 29568, 64, 8, 128).part(4),
    "qwen3-0.6b": Shape(1024, 3072, 16, 8, 128),
    "qwen3-32b of 8 ranks": Shape(5120, 25600, 64, 8, 128).part(8),
    "mistral-7b": Shape(4096, 14336, 32, 8, 128, window=4096),
    "heads of 80": Shape(2560, 6912, 32, 8, 80, window=4096),
    "heads of 96": Shape(3072, 8192, 32, 32, 96),
    "heads of 256": Shape(3584, 14336, 16, 8, 256),
    "tests' own": Shape(32, 48, 4, 2, 8, window=11),
}


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of computation and cache; blocks of an 8-bit cache have scales."""

    compute: torch.dtype
    cache: torch.dtype

    @property
    def scaled(self) -> bool:
        return self.cache.itemsize == 1


PRECISIONS = {
    "bf16": Precision(torch.bfloat16, torch.bfloat16),
    "fp16": Precision(torch.float16, torch.float16),
    "fp32": Precision(torch.float32, torch.float32),
    "fp8": Precision(torch.bfloat16, torch.float8_e4m3fn),
    "fp8 of fp16": Precision(torch.float16, torch.float8_e4m3fn),
}


def launches(
    shape: Shape, precision: Precision, monkeypatch: pytest.MonkeyPatch, rows: int = 24
) -> list[Launch]:
    """A step of `rows` tokens, which are the first of contexts long and short."""
    monkeypatch.setattr(splits, "spare_items", lambda device, kv_heads: 528 // kv_heads)
    dtype = precision.compute
    hidden, added = torch.empty(2, rows, shape.hidden, dtype=dtype)
    layers = torch.empty(
        (4, 3, 2, shape.kv_heads, BLOCK_SIZE, shape.head_size), dtype=precision.cache
    )
    scales = torch.empty(layers.shape[:4]) if precision.scaled else None
    cache, scales = layers[:, 1], None if scales is None else scales[:, 1]
    heads = torch.empty(rows, shape.heads + 2 * shape.kv_heads, shape.head_size, dtype=dtype)
    rotation = tuple(torch.empty(2, rows, 1, shape.head_size // 2))
    positions = torch.zeros(rows, dtype=torch.int64)
    with launches_of(kernels, decode_kernels) as made:
        for each in (None, added):
            operations.add_norm(hidden, each, torch.empty(shape.hidden, dtype=dtype), 1e-5)
        operations.gate(torch.empty(rows, 2 * shape.inner, dtype=dtype))
        operations.rotate_and_store(heads, rotation, cache, scales, (positions, positions))
        for width in (LONG, SHORT):
            tables = torch.zeros(width, rows, dtype=torch.int32)
            query = heads[:, : shape.heads]
            operations.decode(query, cache, scales, tables, positions, shape.window)
    return made
