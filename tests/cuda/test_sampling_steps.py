"""The whole sampler on a fake CUDA device: few kernels, one copy, and no wait."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.sampler.sampler import Sampler
from engine.sequence import Sequence
from grammar.token_set import TokenSet
from tests.cuda.fake_cuda import DEVICE, FakeCuda, fake_cuda
from tests.engine.driver import make_sequence
from wire.sampling import SamplingParams, TokenRules

VOCAB_SIZE = 128256
DRAW = {"amax": 1, "triton.race": 1, "triton.settle": 1}
FILTER = {"triton.measure": 1, "triton.find_limits": 1}
STEPS: dict[str, tuple[dict[str, object], dict[str, int]]] = {
    "greedy": ({"temperature": 0.0}, {"argmax": 1}),
    "temperature": ({}, DRAW),
    "min-p": ({"min_p": 0.1}, DRAW),
    "top-p": ({"top_p": 0.9}, DRAW | FILTER),
    "top-k, top-p and min-p": ({"top_p": 0.9, "top_k": 40, "min_p": 0.01}, DRAW | FILTER),
}


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        Sampler(frozenset()).warm_up(VOCAB_SIZE, DEVICE)
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


def penalized(fields: dict[str, object]) -> list[Sequence]:
    sampling = SamplingParams(max_tokens=9, **fields)  # type: ignore[arg-type]
    return [make_sequence([row, 1, 2, 2], sampling, num_prompt=2) for row in range(256)]


EDITS: dict[str, dict[str, object]] = {
    "repetition": {"repetition_penalty": 1.2},
    "presence and frequency": {"presence_penalty": 0.5, "frequency_penalty": 0.1},
    "rules": {"rules": TokenRules(bias=((5, 1.0),), allowed=(3, 4, 5), banned=((2, 7),))},
    "min_tokens": {"min_tokens": 9, "stop_token_ids": (8,)},
}


@pytest.mark.parametrize("kind", [*EDITS, "all"])
def test_a_batch_is_penalized_with_one_copy_and_no_kernel_for_each_row(
    cuda: FakeCuda, kind: str
) -> None:
    together = {key: value for fields in EDITS.values() for key, value in fields.items()}
    rows = penalized(together if kind == "all" else EDITS[kind])
    with cuda.recording() as record:
        drawn = Sampler(frozenset({7})).draw(torch.empty(256, VOCAB_SIZE, device=DEVICE), rows)
    assert drawn.tokens.shape == (256,)
    assert (record.faults, record.waits) == ([], [])
    assert len(record.to_device) == 2
    assert record.num_kernels <= (3 + 18 if kind == "all" else 3 + 8)


def test_a_batch_of_grammars_is_masked_with_a_few_copies(cuda: FakeCuda) -> None:
    """Without a wait, though rows where nothing is left are an exception."""
    few, most = (masked_tokens(count) for count in (40, VOCAB_SIZE - 40))
    rows = penalized({"min_tokens": 9})
    for row, sequence in enumerate(rows):
        sequence.grammar = SimpleNamespace(allowed=few if row % 2 else most)  # type: ignore[assignment]
    with cuda.recording() as record:
        Sampler(frozenset({7})).draw(torch.empty(256, VOCAB_SIZE, device=DEVICE), rows)
    assert (record.faults, record.waits) == ([], [])
    assert len(record.to_device) == 5
    assert record.num_kernels <= 20


def masked_tokens(num_allowed: int) -> TokenSet:
    bits = np.arange(VOCAB_SIZE) < num_allowed
    return TokenSet(np.packbits(bits, bitorder="little").view(np.uint32), VOCAB_SIZE)


def test_log_probabilities_leave_the_device_as_a_few_numbers_of_a_row(cuda: FakeCuda) -> None:
    sampling = SamplingParams(max_tokens=9, logprobs=5)
    rows = [make_sequence([1], sampling) for _ in range(8)]
    with cuda.recording() as record:
        Sampler(frozenset()).draw(torch.empty(8, VOCAB_SIZE, device=DEVICE), rows)
    assert (record.faults, record.waits) == ([], [])
    assert sum(record.to_host) == 8 * (8 + 4 + 5 * (8 + 4))


def test_a_batch_that_mixes_greedy_rows_with_others_is_drawn_at_once(cuda: FakeCuda) -> None:
    rows = [
        make_sequence([1], SamplingParams(max_tokens=9, temperature=temperature))
        for temperature in (0.0, 1.0, 0.0)
    ]
    with cuda.recording() as record:
        Sampler(frozenset()).draw(torch.empty(3, VOCAB_SIZE, device=DEVICE), rows)
    assert record.kernels == DRAW
    assert record.faults == []
