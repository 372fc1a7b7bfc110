"""The sampler's Triton kernels compile for every GPU, and keep what they compute in registers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from engine.cuda import draw_kernels, limit_kernels, sampling
from tests.cuda.aot import ARCHITECTURES, Launch, compile_launch, launches_of

VOCAB_SIZES = (32000, 128256, 151936, 256000, 151669)
"""Of Llama 2, Llama 3, Qwen 3 and Gemma; and one that is no multiple of 16."""


def launches_at(vocab_size: int) -> list[Launch]:
    rows = 3
    settings = sampling.RowSettings(
        torch.ones(rows),
        torch.zeros(rows, dtype=torch.int64),
        torch.ones(rows),
        torch.zeros(rows, dtype=torch.int32),
        torch.ones(rows, dtype=torch.float64),
    )
    logits = torch.zeros(rows, vocab_size)
    with launches_of(draw_kernels) as draws, launches_of(limit_kernels) as limits:
        sampling.draw_tokens(logits, settings)
    return limits + draws


@pytest.mark.parametrize(
    "arch",
    [it if it in (80, 90) else pytest.param(it, marks=pytest.mark.long) for it in ARCHITECTURES],
)
def test_kernels_compile_without_spilling(arch: int) -> None:
    for vocab_size in VOCAB_SIZES:
        for launch in launches_at(vocab_size):
            used = compile_launch(launch, arch)
            assert used.spill_bytes == 0, launch.name
            assert used.registers <= 128, launch.name
            assert used.shared_bytes <= 32 * 1024, launch.name
