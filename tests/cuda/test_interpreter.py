"""The interpreter of tests/cuda computes as a GPU would, and leaves Triton as it was."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from tests.cuda.aot import compile_launch, launches_of  # noqa: E402
from tests.cuda.interpreter import interpreted  # noqa: E402

THIS = sys.modules[__name__]


@triton.jit
def convert(source, target, SIZE: tl.constexpr):
    """Cast numbers to the dtype of `target`."""
    place = tl.arange(0, SIZE)
    tl.store(target + place, tl.load(source + place).to(target.dtype.element_ty))


@triton.jit
def product(left, right, result, SIZE: tl.constexpr):
    """A matrix product [SIZE, SIZE], and the largest of each row in the last column."""
    place = tl.arange(0, SIZE)
    at = place[:, None] * SIZE + place[None, :]
    made = tl.dot(tl.load(left + at), tl.load(right + at), input_precision="ieee")
    tl.store(result + at, tl.where(place[None, :] == SIZE - 1, tl.max(made, 1)[:, None], made))


def product_of(left: Tensor, right: Tensor) -> Tensor:
    result = torch.empty(left.shape)
    product[(1,)](left, right, result, SIZE=len(left))
    return result


@pytest.mark.quick
@pytest.mark.parametrize("source", [torch.float32, torch.float16])
@pytest.mark.parametrize("target", [torch.bfloat16, torch.float8_e4m3fn, torch.float32])
def test_numbers_are_rounded_to_the_nearest(source: torch.dtype, target: torch.dtype) -> None:
    numbers = torch.cat([torch.linspace(-500, 500, 1000), torch.logspace(-9, 2, 24)]).to(source)
    made = torch.empty(1024, dtype=target)
    with interpreted(THIS):
        convert[(1,)](numbers, made, SIZE=1024)
    expected = numbers.float()
    if target == torch.float8_e4m3fn:
        expected = expected.clamp(-448, 448)  # as GPUs do, where PyTorch gives NaN
    assert torch.equal(made.float(), expected.to(target).float())


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_those_of_numbers(dtype: torch.dtype) -> None:
    left, right = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with interpreted(THIS):
        made = product_of(left, right)
    expected = left.float() @ right.float()
    expected[:, -1] = expected.amax(1)
    torch.testing.assert_close(made, expected)


def test_kernels_are_compiled_as_before_when_it_has_ended() -> None:
    numbers = torch.ones(16, 16)
    with launches_of(THIS) as launches:
        product_of(numbers, numbers)
    before = compile_launch(launches[0], 80)
    with interpreted(THIS):
        assert product_of(numbers, numbers).eq(16).all()
    assert compile_launch(launches[0], 80).registers == before.registers
    assert compile_launch(launches[0], 89).registers > 0  # another one: it is in no cache
