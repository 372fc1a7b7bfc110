"""FlashInfer's own Python takes every call that this backend makes, and plans what it means."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch, SequenceRows
from engine.attention.flashinfer_available import TESTED_VERSION
from engine.attention.flashinfer_backend import FlashInferBackend, FlashInferTables
from engine.attention.torch_backend import TorchBackend
from tests.cuda.compiled_flashinfer import Compiled, compiled_flashinfer

pytestmark = pytest.mark.xdist_group("flashinfer")  # whose import takes seconds

KV_HEADS, NUM_SLOTS, WINDOWS = 2, 320, (None, 20)
Pieces = list[tuple[int, int]]
"""First and last token of each sequence's part, as (start, end)."""

ROWS: Pieces = [(37, 38), (0, 1), (15, 16)]
PROMPTS: Pieces = [(0, 21), (16, 40)]
LONG: Pieces = [(16, 96)]  # from 65 queries on Hopper has kernels of its own
MIXED: Pieces = [*ROWS, *PROMPTS]
SCATTERED: Pieces = [(37, 38), (0, 21), (15, 16)]

SHAPES = [
    *((group, 128, 16) for group in range(1, 9)),
    *((group, 64, 16) for group in (1, 7)),
    (2, 128, 1),
    (4, 128, 64),
    (4, 256, 16),
]


@pytest.fixture
def hopper(tmp_path: Path) -> Iterator[Compiled]:
    with compiled_flashinfer(tmp_path, (9, 0)) as compiled:
        yield compiled


@pytest.fixture
def ampere(tmp_path: Path) -> Iterator[Compiled]:
    with compiled_flashinfer(tmp_path, (8, 0)) as compiled:
        yield compiled


class Shape:
    """A cache and queries of one shape, for FlashInfer and for PyTorch."""

    def __init__(
        self, group: int, head_size: int, block_size: int, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        num_blocks = NUM_SLOTS // block_size + 8
        shape = (num_blocks, len(WINDOWS), 2, KV_HEADS, block_size, head_size)
        cache = torch.randn(shape, generator=generator).to(dtype)
        self.heads, self.head_size, self.block_size = group * KV_HEADS, head_size, block_size
        self.dtype, self.num_blocks = dtype, num_blocks
        self.backend = FlashInferBackend(cache, WINDOWS, dtype, self.heads)

    def sequences(self, pieces: Pieces) -> list[SequenceRows]:
        """Over scattered blocks."""
        order = torch.randperm(self.num_blocks, generator=torch.Generator().manual_seed(1))
        counts = [-(-end // self.block_size) for _, end in pieces]
        tables = order[: sum(counts)].split(counts)
        return [
            SequenceRows(start, end - start, table.tolist())
            for (start, end), table in zip(pieces, tables, strict=True)
        ]

    def attended(self, batch: AttentionBatch, num_tokens: int) -> list[Tensor]:
        """Each layer's output, of queries, keys and values that lie side by side."""
        generator = torch.Generator().manual_seed(2)
        shape, sizes = (num_tokens, self.heads + 2 * KV_HEADS, self.head_size), [self.heads]
        outputs = []
        for layer in range(len(WINDOWS)):
            fused = torch.randn(shape, generator=generator).to(self.dtype)
            parts = fused.split([*sizes, KV_HEADS, KV_HEADS], dim=1)
            outputs.append(batch.attend(layer, *parts))
        return outputs

    def check(self, pieces: Pieces) -> None:
        """A step of these pieces has the outputs that PyTorch computes."""
        sequences = self.sequences(pieces)
        self.check_batch(self.backend.prepare(sequences), sequences)

    def check_batch(self, batch: AttentionBatch, sequences: list[SequenceRows]) -> None:
        pytorch = TorchBackend(self.backend.cache.clone(), WINDOWS)
        num_tokens = sum(sequence.count for sequence in sequences)
        made = self.attended(batch, num_tokens)
        expected = self.attended(pytorch.prepare(sequences), num_tokens)
        torch.testing.assert_close(made, expected, atol=0.02, rtol=0.02)


def kernels(compiled: Compiled) -> list[tuple[str, int, int]]:
    """Each plan's kernel, number of sequences, and tokens to the left that are seen."""
    return sorted((p.kernel, len(p.query_starts) - 1, p.window_left) for p in compiled.plans)


def test_the_version_is_the_tested_one() -> None:
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {need for extra in extras.values() for need in extra if need.startswith("flashinfer")}
    assert named == {f"flashinfer-python=={TESTED_VERSION}"}
    assert version("flashinfer-python") == TESTED_VERSION


@pytest.mark.parametrize(("group", "head_size", "block_size"), SHAPES)
def test_steps_attend_as_pytorch_does(
    group: int, head_size: int, block_size: int, hopper: Compiled
) -> None:
    shape = Shape(group, head_size, block_size)
    for pieces in (ROWS, LONG, MIXED):
        shape.check(pieces)
    rows = "decode" if group < 4 else "fa2"  # with tensor cores
    assert kernels(hopper) == sorted(
        (kernel, num_sequences, window_left)
        for kernel, num_sequences in ((rows, 3), ("fa3", 1), (rows, 3), ("fa2", 2))
        for window_left in (-1, 19)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ampere_has_one_kernel_for_prompts(dtype: torch.dtype, ampere: Compiled) -> None:
    shape = Shape(4, 128, 16, dtype)
    shape.check(LONG)
    shape.check(SCATTERED)
    assert {plan.kernel for plan in ampere.plans} == {"fa2"}


@pytest.mark.parametrize("group", [2, 8])
def test_captured_steps_are_planned_into_buffers_that_stay(group: int, hopper: Compiled) -> None:
    shape = Shape(group, 128, 16)
    graphs = FlashInferTables(shape.backend, most_blocks=6)
    for pieces in (ROWS, [(5, 6), (90, 91), (31, 32)]):
        sequences = shape.sequences(pieces)
        tables = torch.zeros(6, 3, dtype=torch.int32)
        for column, sequence in enumerate(sequences):
            tables[: len(sequence.blocks), column] = torch.tensor(sequence.blocks)
        graphs.plan(np.array([sequence.end for sequence in sequences]), tables.numpy())
        batch = graphs.batch(tables, torch.tensor([sequence.start for sequence in sequences]))
        shape.check_batch(batch, sequences)
    assert len(hopper.plans) == 4
    assert all(plan.for_graphs for plan in hopper.plans)


def test_all_modules_are_compiled_before_the_first_step(hopper: Compiled) -> None:
    shape = Shape(2, 128, 16)
    shape.backend.load()
    assert len(hopper.modules) == len(set(hopper.modules)) == 6  # three for each window
    for pieces in (ROWS, MIXED, LONG, PROMPTS, SCATTERED):
        shape.check(pieces)
    assert len(hopper.modules) == 6
