"""Both attention backends in steps as the engine makes them, against the plain formula.

The first use of FlashInfer compiles its kernels, which takes minutes; so this part comes before
those that start workers. Prompts, continued prompts and decoding sequences share a step; then
decode steps alone, as they are captured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import formulas
from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, check, figure, skipped
from engine.attention.backend import SequenceRows
from engine.attention.choice import Attention, make_attention, why_no_flashinfer_on
from engine.attention.flashinfer_available import AttentionShape

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer, query, key and value -> what AttentionBatch.attend gives."""
BLOCK_SIZE = 16
WINDOWS = (None, 20)
"""Of the two layers."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True, slots=True)
class Size:
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_size: int
    rows: tuple[tuple[int, int], ...]
    """Of a step's sequences: the number of tokens before this step, and in it."""


GPU = (
    Size(torch.bfloat16, 32, 8, 128, ((0, 700), (512, 300), (70, 1), (3, 1), (2000, 1))),
    Size(torch.bfloat16, 32, 8, 64, ((0, 33), (16, 60), (70, 1))),
)
CPU = (Size(torch.float32, 4, 2, 16, ((0, 33), (16, 20), (40, 1), (3, 1))),)


def run(context: Context) -> Iterator[Finding]:
    for name in ("torch", "flashinfer"):
        for size in GPU if context.on_gpu else CPU:
            title = f"{name}, head size {size.head_size}"
            if name == "flashinfer" and (reason := _why_no_flashinfer(context, size)) is not None:
                yield skipped(title, reason)
                continue
            yield from guarded(
                context,
                title,
                lambda name=name, size=size, title=title: _check(context, name, size, title),
            )


def _why_no_flashinfer(context: Context, size: Size) -> str | None:
    shape = AttentionShape(size.dtype, size.dtype, size.head_size)
    return why_no_flashinfer_on(context.torch_device, shape)


def _check(context: Context, name: str, size: Size, title: str) -> Iterator[Finding]:
    torch.manual_seed(0)
    sequences = _sequences(size)
    num_blocks = sum(len(sequence.blocks) for sequence in sequences)
    shape = num_blocks, len(WINDOWS), 2, size.kv_heads, BLOCK_SIZE, size.head_size
    cache = torch.randn(shape, dtype=size.dtype, device=context.device)
    started = time.perf_counter()
    attention = make_attention(name, cache, None, WINDOWS, size.dtype, size.heads, num_blocks)
    kinds = {"mixed step": sequences, "decode step": [it for it in sequences if it.count == 1]}
    for kind, step in kinds.items():
        found = attention.steps.prepare(step)
        yield _compared(f"{title}, {kind}", found.attend, cache, step, size)
    decoding = kinds["decode step"]
    yield _compared(
        f"{title}, to be captured", _captured(attention, decoding, cache), cache, decoding, size
    )
    context.synchronize()
    seconds = time.perf_counter() - started
    yield figure(title, f"{seconds:.1f} s, compiling included", seconds=seconds)


def _captured(attention: Attention, step: Sequence[SequenceRows], cache: Tensor) -> Attend:
    """`attend` of the form that is captured in graphs."""
    needed = max(len(it.blocks) for it in step)
    width = attention.graphs.width(needed, needed)
    tables = np.zeros((width, len(step)), dtype=np.int32)
    for row, it in enumerate(step):
        tables[: len(it.blocks), row] = it.blocks
    attention.graphs.plan(np.array([it.end for it in step]), tables)
    positions = torch.tensor([it.start for it in step], device=cache.device)
    return attention.graphs.batch(torch.from_numpy(tables).to(cache.device), positions).attend


def _compared(
    name: str, attend: Attend, cache: Tensor, step: Sequence[SequenceRows], size: Size
) -> Finding:
    worst = 0.0
    tokens = sum(it.count for it in step)
    for layer, window in enumerate(WINDOWS):
        shape = tokens, size.heads + 2 * size.kv_heads, size.head_size
        made = torch.randn(shape, dtype=size.dtype, device=cache.device)
        query, key, value = made.split((size.heads, size.kv_heads, size.kv_heads), 1)
        found = attend(layer, query.contiguous(), key.contiguous(), value.contiguous())
        parts = query.split([it.count for it in step])
        expected = [
            formulas.attention(part, cache[:, layer], it.blocks, it.start, window)
            for part, it in zip(parts, step, strict=True)
        ]
        worst = max(worst, formulas.relative_error(found, torch.cat(expected)))
    return check(name, worst <= TOLERANCE[size.dtype], f"off by {worst:.1e}", error=worst)


def _sequences(size: Size) -> list[SequenceRows]:
    """Their blocks are anywhere."""
    counts = [-(-(start + count) // BLOCK_SIZE) for start, count in size.rows]
    order = list(range(sum(counts)))
    random.Random(0).shuffle(order)
    tables = [tuple(order.pop() for _ in range(count)) for count in counts]
    return [SequenceRows(*row, table) for row, table in zip(size.rows, tables, strict=True)]
