"""The checksum's fused kernel: interpreted it gives PyTorch's sum, and it compiles for all GPUs."""

from __future__ import annotations

import pytest
import torch

from kv_transfer.layout import checksum_kernel
from kv_transfer.layout.device_checksum import add_by_torch
from tests.cuda.aot import ARCHITECTURES, compile_launch, launches_of
from tests.cuda.interpreter import interpreted


@pytest.mark.parametrize("num_words", [8, 2048, 5000])
def test_the_fused_kernel_gives_torch_s_sum(
    num_words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several launches, over blocks that end within a tile, at any place."""
    monkeypatch.setattr(checksum_kernel, "PART_BYTES", 2 * num_words * 8)
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**62), 2**62, (4, num_words), generator=generator)
    index = torch.tensor([7 + (3 << 32), 2, 0, 3, 1, 2])
    expected, found = torch.zeros(2, 1, dtype=torch.int64)
    add_by_torch(expected, words, index)
    with interpreted(checksum_kernel):
        checksum_kernel.add_by_triton(found, words, index)
    assert found.item() == expected.item() != 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_it_compiles_without_spills(arch: int) -> None:
    total, words = torch.zeros(1, dtype=torch.int64), torch.zeros(4, 262_144, dtype=torch.int64)
    with launches_of(checksum_kernel) as launches:
        checksum_kernel.add_by_triton(total, words, torch.tensor([0, 1, 2, 3]))
    compiled = compile_launch(launches[0], arch)
    assert (compiled.spill_bytes, compiled.registers <= 128) == (0, True)
