"""Steps of prompts and decode rows with a GPU's kernels attend as PyTorch's operations do.

The paged kernel is interpreted; flash attention is PyTorch's function over a stand-in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.attention import varlen_chunks
from engine.attention.backend import SequenceRows
from engine.attention.gpu_kernels import GpuKernels, load_gpu_kernels
from engine.attention.torch_backend import TorchBackend
from engine.attention.varlen_chunks import varlen_serves
from engine.runner import Slice
from tests.cuda.fake_cuda import fake_cuda
from tests.cuda.fake_runner import a_config, a_runner, a_sequence
from tests.cuda.flash_stand_in import FlashCalls, flash_on_cpu

HEADS, KV_HEADS, HEAD_SIZE = 6, 2, 16
Pieces = list[tuple[int, int]]
"""First and last token of each sequence's part, as (start, end)."""

DECODE: Pieces = [(69, 70), (0, 1), (32, 33)]
PROMPTS: Pieces = [(0, 37), (20, 50), (64, 66)]
MIXED: Pieces = [*DECODE, *PROMPTS]
SCATTERED: Pieces = [(20, 50), (69, 70), (0, 37), (32, 33), (64, 66)]


@pytest.fixture
def flash() -> Iterator[FlashCalls]:
    with flash_on_cpu() as calls:
        yield calls


def sequences_of(pieces: Pieces, block_size: int) -> list[SequenceRows]:
    """Over scattered blocks."""
    counts = [-(-end // block_size) for _, end in pieces]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1))
    tables = order.split(counts)
    return [
        SequenceRows(start, end - start, table.tolist())
        for (start, end), table in zip(pieces, tables, strict=True)
    ]


def attended(
    kernels: GpuKernels, pieces: Pieces, block_size: int, windows: tuple[int | None, ...]
) -> list[Tensor]:
    """Each layer's output, over a cache that holds what came before, and else NaN."""
    sequences = sequences_of(pieces, block_size)
    generator = torch.Generator().manual_seed(0)
    num_blocks = sum(len(sequence.blocks) for sequence in sequences)
    shape = (num_blocks, len(windows), 2, KV_HEADS, block_size, HEAD_SIZE)
    before, cache = torch.randn(shape, generator=generator), torch.full(shape, math.nan)
    for sequence in sequences:
        for place in range(sequence.start):
            at = sequence.blocks[place // block_size], ..., place % block_size, slice(None)
            cache[at] = before[at]
    batch = TorchBackend(cache, windows, kernels=kernels).prepare(sequences)
    num_tokens = sum(sequence.count for sequence in sequences)
    made = []
    for layer in range(len(windows)):
        fused = torch.randn(num_tokens, HEADS + 2 * KV_HEADS, HEAD_SIZE, generator=generator)
        query, key, value = fused.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        made.append(batch.attend(layer, query, key, value))
    return made


@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize("pieces", [DECODE, MIXED, SCATTERED], ids=["decode", "mixed", "scattered"])
def test_decode_rows_read_their_blocks_in_place(
    pieces: Pieces, block_size: int, interpreted_kernels: None
) -> None:
    windows = (None, 20)
    kernels = GpuKernels(paged_decode=True)
    made = attended(kernels, pieces, block_size, windows)
    torch.testing.assert_close(made, attended(GpuKernels(), pieces, block_size, windows))


@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize(
    "pieces", [PROMPTS, MIXED, SCATTERED], ids=["prompts", "mixed", "scattered"]
)
def test_prompts_attend_by_one_call_a_layer(
    pieces: Pieces, block_size: int, flash: FlashCalls
) -> None:
    windows = (None, 1, 20, 500)
    made = attended(GpuKernels(varlen=True), pieces, block_size, windows)
    assert flash.sequences == [3, 3, 3, 3]
    torch.testing.assert_close(made, attended(GpuKernels(), pieces, block_size, windows))


def test_a_call_gathers_no_more_keys_than_memory_is_meant_for(
    flash: FlashCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen_chunks, "MOST_KEYS", 90)
    made = attended(GpuKernels(varlen=True), MIXED, 16, (None, 5))
    assert flash.sequences == [1, 1, 1, 1, 2]  # of 48, 64, 80 keys; in the window 48, 48, 32
    torch.testing.assert_close(made, attended(GpuKernels(), MIXED, 16, (None, 5)))


@pytest.mark.parametrize("windows", [(None, None), (None, 20)])
def test_a_mixed_step_has_two_kernels_of_attention_a_layer(windows: tuple[int | None, ...]) -> None:
    with fake_cuda() as cuda:
        runner = a_runner(a_config(windows=windows), num_blocks=96)
        slices = [Slice(a_sequence(40, 0), 39, 1), Slice(a_sequence(50, 16), 49, 1)]
        prompts = [a_sequence(60 + n, 32 + 16 * n) for n in range(3)]
        with cuda.recording() as record:
            runner.launch([*slices, *(Slice(prompt, 0, 48) for prompt in prompts)])
    assert record.faults == record.waits == []
    assert record.kernels["triton.decode"] == record.kernels["_varlen_attn_out"] == len(windows)
    assert not record.kernels["_scaled_dot_product_flash_attention"]


@pytest.mark.parametrize(
    ("dtype", "head_size", "capability", "serves"),
    [
        (torch.bfloat16, 128, (9, 0), True),
        (torch.float16, 72, (8, 0), True),
        (torch.float32, 128, (9, 0), False),
        (torch.bfloat16, 12, (9, 0), False),
        (torch.bfloat16, 288, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
    ],
)
def test_flash_attention_serves_what_it_has_kernels_for(
    dtype: torch.dtype, head_size: int, capability: tuple[int, int], serves: bool
) -> None:
    assert varlen_serves(dtype, head_size, capability) == serves


def test_cudnn_attention_is_off_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        load_gpu_kernels(torch.device("cpu"), torch.float32, 64, triton=False)
        assert torch.backends.cuda.cudnn_sdp_enabled()
        gpu = torch.device("cuda", 0)
        made = load_gpu_kernels(gpu, torch.float32, 64, triton=True)
        assert made == GpuKernels(paged_decode=True, varlen=False)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
