"""The fake device notices what would cost time, or fail, on a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from engine.device.to_device import PendingHostCopy, to_device
from tests.cuda.fake_cuda import DEVICE, FakeCuda, fake_cuda


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda, torch.inference_mode():
        yield cuda


def numbers(*shape: int) -> Tensor:
    return torch.empty(*shape, device=DEVICE)


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: tensor.tolist(),
        lambda tensor: bool((tensor > 0).any()),
        lambda tensor: int(tensor.argmax()),
        lambda tensor: [0, 1, 2][tensor[0].long()],
    ],
    ids=["item", "tolist", "bool", "int", "index"],
)
def test_a_hidden_wait_is_a_fault(cuda: FakeCuda, read: Callable[[Tensor], object]) -> None:
    read(numbers(3))
    assert "the host reads a tensor" in " ".join(cuda.record.faults)


def test_who_must_learn_a_shape_waits(cuda: FakeCuda) -> None:
    with pytest.raises(DynamicOutputShapeException):
        numbers(3).nonzero()
    assert "to learn its result's shape" in cuda.record.faults[0]


@pytest.mark.parametrize(
    ("copy", "fault"),
    [
        (lambda: torch.ones(3).to(DEVICE), "a blocking copy to the device of (3,)"),
        (lambda: torch.tensor([1, 2], device=DEVICE), "a blocking copy to the device of (2,)"),
        (lambda: torch.ones(3).to(DEVICE, non_blocking=True), "pageable memory (3,)"),
        (lambda: numbers(3).cpu(), "a blocking copy to the host of (3,)"),
        (lambda: torch.empty(3).copy_(numbers(3), non_blocking=True), "pageable memory (3,)"),
    ],
    ids=["to", "tensor", "pageable", "cpu", "pageable-back"],
)
def test_a_copy_that_blocks_is_a_fault(
    cuda: FakeCuda, copy: Callable[[], object], fault: str
) -> None:
    copy()
    assert [fault in found for found in cuda.record.faults] == [True]


def test_pinned_copies_are_counted_and_read_when_they_are_over(cuda: FakeCuda) -> None:
    there = to_device([1, 2, 3], DEVICE)
    back = PendingHostCopy(DEVICE, there)
    assert (cuda.record.to_device, cuda.record.to_host, cuda.record.faults) == ([24], [24], [])
    assert not cuda.record.waits
    [host] = back.wait()
    assert host.tolist() == [0, 0, 0]
    assert (len(cuda.record.waits), cuda.record.faults) == (1, [])


def test_a_copy_that_may_not_be_over_is_not_read(cuda: FakeCuda) -> None:
    host = torch.empty(3, pin_memory=True).copy_(numbers(3), non_blocking=True)
    host.tolist()
    assert "before it is over" in cuda.record.faults[0]


def test_tensors_of_two_devices_do_not_meet(cuda: FakeCuda) -> None:
    with pytest.raises(RuntimeError, match="found at least two devices"):
        numbers(3) + torch.ones(3)


def test_kernels_are_counted_and_views_are_not(cuda: FakeCuda) -> None:
    from engine.cuda import operations

    weight, hidden = numbers(8, 4), numbers(5, 4)
    with cuda.recording() as record:
        made = torch.nn.functional.linear(hidden[:2].view(2, 4), weight)
        operations.gate(made)
    assert record.kernels == {"mm": 1, "triton.gate": 1}
    assert not record.faults


def test_a_kernel_is_given_no_host_tensor(cuda: FakeCuda) -> None:
    from engine.cuda import operations

    operations.gate(torch.ones(2, 8))
    assert "gate is given a tensor on cpu" in cuda.record.faults[0]


def test_a_captured_computation_touches_no_host(cuda: FakeCuda) -> None:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        numbers(3).add_(1)
        to_device([1], DEVICE)
        torch.ones(2)
    [captured] = cuda.record.captures
    assert captured.kernels == {"add_": 1}
    said = " ".join(captured.faults)
    for what in ("pinned", "a copy to the device", "ones uses a host tensor"):
        assert f"{what} while a graph is captured" in said or what == "pinned"
    graph.replay()
    assert cuda.record.replays == 1
