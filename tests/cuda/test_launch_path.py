"""Every kind of step on a fake CUDA device: nothing waits, nothing blocks, no two devices meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from engine.runner import Slice
from engine.runners.torch_runner import TorchRunner
from engine.sequence import Sequence
from tests.cuda.fake_cuda import FakeCuda, fake_cuda
from tests.cuda.fake_runner import CONFIGS, a_runner, a_sequence

DTYPES = {
    "bfloat16": (torch.bfloat16, None),
    "float32": (torch.float32, None),
    "float8": (torch.bfloat16, torch.float8_e4m3fn),
}
SAMPLING: dict[str, dict[str, object]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8, "seed": 1},
    "filters": {"temperature": 0.8, "seed": 1, "top_p": 0.9, "top_k": 5, "min_p": 0.05},
    "logprobs": {"logprobs": 3},
    "penalties": {
        "temperature": 0.7,
        "seed": 1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "min_tokens": 3,
    },
}


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        yield cuda


def launch_every_kind(runner: TorchRunner, a: Sequence, b: Sequence) -> None:
    """A prompt, decode steps ahead of their results, a mixed step, and a prompt by layers."""

    def launch(*slices: Slice, on_layer: Callable[[int], None] | None = None) -> None:
        runner.launch(slices, on_layer)
        for slice in slices:
            slice.sequence.num_unknown += slice.num_sampled
            slice.sequence.num_computed = slice.end

    launch(Slice(a, 0, 40))
    launch(Slice(a, 40, 1))
    launch(Slice(a, 41, 1), Slice(b, 0, 33))
    launch(Slice(a, 42, 1), Slice(b, 33, 37))
    launch(Slice(a, 43, 1), Slice(b, 70, 1))


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_of_every_architecture_wait_for_nothing(
    cuda: FakeCuda, name: str, dtypes: str
) -> None:
    dtype, cache_dtype = DTYPES[dtypes]
    runner = a_runner(CONFIGS[name], dtype, cache_dtype=cache_dtype)
    with cuda.recording() as record:
        launch_every_kind(runner, a_sequence(40, 0), a_sequence(70, 16))
    assert (record.faults, record.waits, record.replays) == ([], [], 2)


@pytest.mark.parametrize("kind", SAMPLING)
def test_sampling_waits_for_nothing(cuda: FakeCuda, kind: str) -> None:
    runner = a_runner(CONFIGS["llama"])
    with cuda.recording() as record:
        launch_every_kind(
            runner, a_sequence(40, 0, **SAMPLING[kind]), a_sequence(70, 16, **SAMPLING[kind])
        )
    assert (record.faults, record.waits) == ([], [])


def test_a_step_by_layers_looks_at_each_layer_and_waits_for_the_draws_alone(cuda: FakeCuda) -> None:
    runner, computed = a_runner(CONFIGS["llama"]), list[int]()
    with cuda.recording() as record:
        collect = runner.launch([Slice(a_sequence(40, 0), 0, 40)], computed.append)
        assert (computed, record.waits) == ([], [])
        collect()
    assert computed == [1, 2]
    assert record.faults == []
    assert [wait.split(" at ")[0] for wait in record.waits] == ["an event"]


@pytest.mark.parametrize("name", CONFIGS)
def test_captured_steps_touch_no_host(cuda: FakeCuda, name: str) -> None:
    with cuda.recording() as record:
        a_runner(CONFIGS[name], max_sequences=8)
    assert len(record.captures) == 4  # 8, 4, 2, 1 rows
    assert [captured.faults for captured in record.captures] == [[]] * 4
    assert all(captured.num_kernels for captured in record.captures)
