"""Captured decode steps on a fake CUDA device: how many kernels, how much memory stays theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.runner import Slice
from engine.runners.decode_graphs import capture_sizes
from tests.cuda.fake_cuda import FakeCuda, fake_cuda
from tests.cuda.fake_runner import a_config, a_runner, a_sequence

KERNELS_A_LAYER, KERNELS_BESIDE = 10, 15


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        yield cuda


@pytest.mark.parametrize("num_layers", [2, 5])
def test_a_decode_step_launches_few_kernels(cuda: FakeCuda, num_layers: int) -> None:
    """Of Llama's shape, greedy, ahead of the step before; a row's splits are combined."""
    config = a_config(
        hidden_size=4096, num_heads=32, num_kv_heads=8, head_size=128, windows=(None,) * num_layers
    )
    with cuda.recording() as at_start:
        runner = a_runner(config, max_sequences=1)
    sequence = a_sequence(40, 0)
    runner.launch([Slice(sequence, 0, 40)])
    sequence.num_unknown, sequence.num_computed = 1, 40
    with cuda.recording() as record:
        runner.launch([Slice(sequence, 40, 1)])
    [captured] = at_start.captures
    assert record.replays == 1
    num_kernels = captured.num_kernels + record.num_kernels
    assert num_kernels <= KERNELS_A_LAYER * num_layers + KERNELS_BESIDE
    assert len(record.to_device) == len(record.to_host) == 1


def test_all_sizes_of_graphs_write_their_logits_to_one_tensor(cuda: FakeCuda) -> None:
    captured = list[torch.Tensor]()
    runner = a_runner(a_config(), graphs="off", max_sequences=8)

    def capture(compute):  # type: ignore[no-untyped-def]
        captured.append(compute())
        return compute

    runner._settings = type(runner._settings)("torch", "start", 8)
    runner.capture_steps(capture, spare_block=64)
    assert [len(logits) for logits in captured] == capture_sizes(8)[::-1]
    assert {logits.dtype for logits in captured} == {torch.float32}
    [memory] = {logits.untyped_storage()._cdata for logits in captured}
    assert captured[0].untyped_storage().nbytes() == 8 * runner.vocab_size * 4
    assert memory
