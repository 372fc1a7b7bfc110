"""The whole sampler on a fake CUDA device: few kernels, one copy, and no wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.sampler.sampler import Sampler
from tests.cuda.fake_cuda import DEVICE, FakeCuda, fake_cuda
from tests.engine.driver import make_sequence
from wire.sampling import SamplingParams

VOCAB_SIZE = 128256
DRAW = {"amax": 1, "triton.race": 1, "triton.settle": 1}
FILTER = {"triton.measure": 1, "triton.find_limits": 1}
STEPS = {
    "greedy": ({"temperature": 0.0}, {"argmax": 1}),
    "temperature": ({}, DRAW),
    "min-p": ({"min_p": 0.1}, DRAW),
    "top-p": ({"top_p": 0.9}, DRAW | FILTER),
    "top-k, top-p and min-p": ({"top_p": 0.9, "top_k": 40, "min_p": 0.01}, DRAW | FILTER),
}


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        yield cuda


@pytest.mark.parametrize("kind", STEPS)
def test_a_draw_is_a_few_kernels_and_one_copy_each_way(cuda: FakeCuda, kind: str) -> None:
    fields, kernels = STEPS[kind]
    sampling = SamplingParams(max_tokens=9, **fields)  # type: ignore[arg-type]
    rows = [make_sequence([1, 2, 3], sampling) for _ in range(256)]
    logits = torch.empty(256, VOCAB_SIZE, device=DEVICE)
    with cuda.recording() as record:
        drawn = Sampler(frozenset()).draw(logits, rows)
    assert drawn.tokens.shape == (256,)
    assert record.kernels == kernels
    assert len(record.to_device) == (kind != "greedy")
    assert record.to_host == [256 * 8]
    assert (record.faults, record.waits) == ([], [])


def test_a_batch_that_mixes_greedy_rows_with_others_is_drawn_at_once(cuda: FakeCuda) -> None:
    rows = [
        make_sequence([1], SamplingParams(max_tokens=9, temperature=temperature))
        for temperature in (0.0, 1.0, 0.0)
    ]
    with cuda.recording() as record:
        Sampler(frozenset()).draw(torch.empty(3, VOCAB_SIZE, device=DEVICE), rows)
    assert record.kernels == DRAW
    assert record.faults == []
