"""On a GPU: kernels against PyTorch's operations, and steps of every kind against the reference."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.attention.backend import SequenceRows
from engine.attention.choice import why_no_flashinfer_on
from engine.attention.flashinfer_available import AttentionShape
from engine.attention.flashinfer_backend import FlashInferBackend
from engine.attention.gpu_kernels import GpuKernels, load_gpu_kernels
from engine.attention.torch_backend import TorchBackend
from engine.cache.block_pool import BlockPool
from engine.device.triton_available import has_triton
from engine.engine import Engine
from engine.model.rope import rotate
from engine.runners.torch_loading import load_torch_runner
from tests.engine.driver import make_sequence
from tests.engine.reference import Reference, prompt
from wire.sampling import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_triton = pytest.mark.skipif(not has_triton(), reason="needs Triton")
NUM_BLOCKS = 96


def answers(engine: Engine, lengths: tuple[int, ...], sampling: SamplingParams) -> list[list[int]]:
    sequences = [make_sequence(prompt(n), sampling, name=str(n)) for n in lengths]
    for sequence in sequences:
        engine.add(sequence)
        engine.step()
    while engine.busy:
        engine.step()
    engine.pool.check_integrity()
    assert engine.pool.num_free == engine.pool.num_blocks
    return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]


@pytest.mark.parametrize("graphs", ["start", "lazy", "off"])
@pytest.mark.parametrize("name", ["llama", "llama-dynamic", "mistral", "qwen2-windows", "qwen3"])
def test_float32_gives_the_tokens_of_the_reference(
    name: str,
    graphs: str,
    checkpoint: Callable[[str], Path],
    reference: Callable[[str], Reference],
) -> None:
    runner = load_torch_runner(
        checkpoint(name),
        device="cuda:0",
        dtype="float32",
        attention="torch",
        graphs=graphs,
        max_sequences=5,
    )
    runner.allocate(NUM_BLOCKS)
    lengths = (9, 21, 5, 13, 30)
    sampling = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    engine = AsyncEngine(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=11))
    for length, answer in zip(lengths, answers(engine, lengths, sampling), strict=True):
        assert answer == reference(name).greedy(prompt(length), 24)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("graphs", ["start", "off"])
def test_a_model_need_not_be_on_the_device_that_the_thread_has_chosen(
    graphs: str, checkpoint: Callable[[str], Path], reference: Callable[[str], Reference]
) -> None:
    runner = load_torch_runner(
        checkpoint("llama"), device="cuda:1", dtype="float32", graphs=graphs, max_sequences=5
    )
    runner.allocate(NUM_BLOCKS)
    assert torch.cuda.current_device() == 0
    engine = AsyncEngine(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=11))
    sampling = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    assert answers(engine, (21,), sampling) == [reference("llama").greedy(prompt(21), 24)]


def test_drawn_tokens_are_those_of_a_cpu(checkpoint: Callable[[str], Path]) -> None:
    sampling = SamplingParams(max_tokens=24, seed=3, temperature=1.2, top_p=0.9, top_k=40)
    made = []
    for device in ("cpu", "cuda:0"):
        runner = load_torch_runner(checkpoint("llama"), device=device, dtype="float32")
        runner.allocate(NUM_BLOCKS)
        kind = AsyncEngine if runner.runs_ahead else Engine
        engine = kind(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=11))
        made.append(answers(engine, (9, 21, 5), sampling))
    assert made[0] == made[1]


def test_flashinfer_attends_like_torch() -> None:
    bfloat16 = AttentionShape(torch.bfloat16, torch.bfloat16, 64)
    reason = why_no_flashinfer_on(torch.device("cuda", 0), bfloat16)
    if reason is not None:
        pytest.skip(f"FlashInfer: {reason}")
    shape, windows = (64, 2, 2, 2, 16, 64), (None, 20)
    cache = torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    backends = (
        TorchBackend(cache.clone(), windows),
        FlashInferBackend(cache.clone(), windows, torch.bfloat16, 8),
    )
    for spans in (
        [SequenceRows(70, 1, range(5)), SequenceRows(3, 1, range(9, 10))],
        [
            SequenceRows(16, 60, range(5)),
            SequenceRows(0, 33, range(9, 12)),
            SequenceRows(40, 1, range(20, 23)),
        ],
    ):
        tokens = sum(span.count for span in spans)
        query = torch.randn(tokens, 8, 64, dtype=torch.bfloat16, device="cuda")
        key, value = torch.randn(2, tokens, 2, 64, dtype=torch.bfloat16, device="cuda")
        for layer in range(2):
            ours, theirs = (
                backend.prepare(spans).attend(layer, query, key, value) for backend in backends
            )
            torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


@needs_triton
@pytest.mark.parametrize("head_size", [64, 128])
def test_mixed_steps_attend_like_pytorch_s_operations(head_size: int) -> None:
    shape, windows = (64, 2, 2, 2, 16, head_size), (None, 20)
    cache = torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    kernels = load_gpu_kernels(cache.device, cache.dtype, head_size, triton=True)
    assert kernels == GpuKernels(paged_decode=True, varlen=True)
    backends = TorchBackend(cache.clone(), windows, kernels=kernels), TorchBackend(cache, windows)
    spans = [
        SequenceRows(70, 1, range(5)),
        SequenceRows(3, 1, range(9, 10)),
        SequenceRows(16, 60, range(12, 17)),
        SequenceRows(0, 33, range(20, 23)),
    ]
    tokens = sum(span.count for span in spans)
    query = torch.randn(tokens, 8, head_size, dtype=torch.bfloat16, device="cuda")
    key, value = torch.randn(2, tokens, 2, head_size, dtype=torch.bfloat16, device="cuda")
    for layer in range(2):
        ours, theirs = (
            backend.prepare(spans).attend(layer, query, key, value) for backend in backends
        )
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_operations_are_those_of_pytorch(dtype: torch.dtype) -> None:
    from engine.cuda import operations

    torch.manual_seed(0)
    hidden, added = torch.randn(2, 7, 4096, dtype=dtype, device="cuda")
    weight = torch.randn(4096, dtype=dtype, device="cuda")
    total = hidden + added
    expected = functional.rms_norm(total, (4096,), weight, 1e-5)
    torch.testing.assert_close(
        operations.add_norm(hidden, added, weight, 1e-5), expected, atol=0.02, rtol=0.02
    )
    torch.testing.assert_close(hidden, total)
    gate_up = torch.randn(5, 2 * 14336, dtype=dtype, device="cuda")
    gate, up = gate_up.chunk(2, dim=-1)
    torch.testing.assert_close(
        operations.gate(gate_up), functional.silu(gate) * up, atol=0.02, rtol=0.02
    )


@needs_triton
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size"), [(32, 8, 128), (4, 4, 24), (12, 2, 64)]
)
def test_paged_decoding_is_the_plain_formula(
    heads: int, kv_heads: int, head_size: int, window: int | None
) -> None:
    from engine.cuda import operations

    torch.manual_seed(0)
    ends = (1, 16, 17, 100, 1000)
    cache = torch.randn(90, 2, 2, kv_heads, 16, head_size, device="cuda")[:, 1]
    blocks = list(range(90))
    random.Random(0).shuffle(blocks)
    tables = torch.zeros(70, len(ends), dtype=torch.int32, device="cuda")
    fused = torch.randn(len(ends), heads + 2 * kv_heads, head_size, device="cuda")
    angles = torch.rand(len(ends), 1, head_size // 2, device="cuda") * 6
    rotation = angles.cos(), angles.sin()
    expected_query = rotate(fused[:, :heads], rotation)
    expected_key = rotate(fused[:, heads : heads + kv_heads], rotation)
    value = fused[:, heads + kv_heads :].clone()
    for row, end in enumerate(ends):
        count = -(-end // 16)
        tables[:count, row] = torch.tensor([blocks.pop() for _ in range(count)])
    positions = torch.tensor(ends, device="cuda") - 1
    places = tables.gather(0, (positions // 16)[None])[0].long(), positions % 16
    operations.rotate_and_store(fused, rotation, cache, None, places)
    torch.testing.assert_close(cache[places[0], 0, :, places[1]], expected_key)
    torch.testing.assert_close(cache[places[0], 1, :, places[1]], value)
    attended = operations.decode(fused[:, :heads], cache, None, tables, positions, window)
    for row, end in enumerate(ends):
        keys, values = _of_one(cache, tables[:, row], end, window, heads // kv_heads)
        scores = torch.einsum("hd,nhd->hn", expected_query[row], keys) / head_size**0.5
        expected = torch.einsum("hn,nhd->hd", scores.softmax(-1), values)
        torch.testing.assert_close(attended[row], expected, atol=1e-4, rtol=1e-4)


def _of_one(
    cache: Tensor, table: Tensor, end: int, window: int | None, group: int
) -> tuple[Tensor, Tensor]:
    """What one token sees, each [keys, heads, head_size]."""
    begin = 0 if window is None else max(0, end - window)
    kept = cache[table.long()].permute(1, 0, 3, 2, 4).flatten(1, 2)[:, begin:end]
    keys, values = kept.repeat_interleave(group, 2)
    return keys, values
