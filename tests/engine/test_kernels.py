"""Compiled kernels against PyTorch's operations, and what happens where there is no compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.attention.torch_backend import TorchBackend
from engine.device.cores import Cores, CpuTimes
from engine.device.threads import Threads
from engine.kernels import library
from engine.kernels.library import Kernels, try_load_kernels
from engine.kernels.targets import targets_here
from engine.model import native_step
from engine.model.config import ModelConfig, read_config
from engine.model.linear import Linear
from engine.model.panels import pack
from engine.model.parameters import Parameters, allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import find_weights, load_weights
from tests.engine.reference import VOCAB_SIZE

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = ["llama", "llama-mqa", "llama-mha", "llama-biased", "llama-wide-heads", "llama-tied"]
OTHERS = ["llama-dynamic", "llama-yarn", "mistral", "qwen2-windows", "qwen3", "qwen3-windows"]

Checkpoints = Callable[[str], Path]
Piece = tuple[int, int, int]
"""Sequence, and the tokens [start, end) of it."""


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    loaded = try_load_kernels()
    if loaded is None:
        pytest.skip("needs a C++ compiler")
    return loaded


class Decoder:
    """A checkpoint's decoder with an empty cache, and sequences of random tokens in it."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype,
        *,
        native: bool,
        stored: torch.dtype = torch.float32,
        cached: torch.dtype | None = None,
    ) -> None:
        """Weights in `dtype`, rounded to `stored` before; computes in what the cache holds."""
        cached = cached or dtype
        config, parameters = _load(directory, dtype, stored)
        shape = (120, config.num_layers, 2, config.num_kv_heads, 4, config.head_size)
        self.num_layers = config.num_layers
        self._cache = torch.full(shape, float("nan"), dtype=cached)
        self._backend = TorchBackend(self._cache, config.windows, dtype)
        self.model = Transformer(config, parameters, CPU, compute=cached, native=native)
        generator = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(3, VOCAB_SIZE, (3, 160), generator=generator)
        self._blocks = torch.randperm(120, generator=generator).view(3, 40).tolist()

    def run(self, *pieces: Piece) -> list[Tensor]:
        """Float32 logits of each piece's tokens, after one step over all of them."""
        with torch.inference_mode():
            logits = self.model.logits(self.draw(None, *pieces))
            return list(logits.split([end - start for _, start, end in pieces]))

    def draw(self, drawn: list[int] | None, *pieces: Piece) -> Tensor:
        """Hidden states of such a step, of all its rows or of those that are sampled from."""
        spans = [SequenceRows(start, end - start, self._blocks[i]) for i, start, end in pieces]
        tokens = torch.cat([self._tokens[i, start:end] for i, start, end in pieces])
        positions = torch.cat([torch.arange(start, end) for _, start, end in pieces])
        batch = self._backend.prepare(spans)
        with torch.inference_mode():
            return self.model.forward(tokens, positions, positions + 1, batch, drawn=drawn)


def _load(
    directory: Path, dtype: torch.dtype, stored: torch.dtype
) -> tuple[ModelConfig, Parameters]:
    config = read_config(directory)
    parameters = allocate_parameters(config, dtype, CPU)
    targets = checkpoint_targets(config, parameters)
    load_weights(find_weights(directory), targets)
    for target in targets.values():
        target.copy_(target.to(stored))
    return config, parameters


STEPS: list[list[Piece]] = [
    [(0, 0, 39)],
    [(0, 39, 40), (1, 0, 7)],
    [(1, 7, 100), (0, 40, 41), (2, 0, 1)],
    [(0, 41, 42), (1, 100, 101), (2, 1, 2)],
    [(2, 2, 150)],
]
"""Few rows and many, of prefill and decode, over boundaries of blocks and of windows."""


@pytest.mark.parametrize("name", SHAPES + OTHERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.015)])
def test_native_steps_compute_what_torch_does_in_float32(
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    kernels: Kernels,
    checkpoint: Callable[[str], Path],
) -> None:
    native = Decoder(checkpoint(name), dtype, native=True)
    plain = Decoder(checkpoint(name), torch.float32, native=False, stored=dtype)
    rounding = Decoder(checkpoint(name), dtype, native=False)
    assert native.model.native
    assert not plain.model.native
    found, expected, rounded = (
        [logits for pieces in STEPS for logits in decoder.run(*pieces)]
        for decoder in (native, plain, rounding)
    )
    if dtype == torch.bfloat16 and kernels.can_narrow:  # products round what they are given, too
        assert distance(found, expected) <= distance(rounded, expected)
        return
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    return float((torch.cat(found) - torch.cat(expected)).norm())


@pytest.mark.parametrize("name", SHAPES + OTHERS)
def test_bfloat16_weights_with_a_float32_cache_give_what_floats_give(
    name: str, kernels: Kernels, checkpoint: Callable[[str], Path]
) -> None:
    native = Decoder(checkpoint(name), torch.bfloat16, native=True, cached=torch.float32)
    plain = Decoder(checkpoint(name), torch.float32, native=False, stored=torch.bfloat16)
    for pieces in STEPS:
        for found, expected in zip(native.run(*pieces), plain.run(*pieces), strict=True):
            assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "qwen3-windows"])
def test_a_cache_of_bfloat16_rounds_in_kernels_as_in_torch(
    name: str, kernels: Kernels, checkpoint: Callable[[str], Path]
) -> None:
    directory, floats = checkpoint(name), torch.float32
    native = Decoder(directory, floats, native=True, cached=torch.bfloat16)
    plain = Decoder(directory, floats, native=False, cached=torch.bfloat16)
    exact = Decoder(directory, floats, native=False)
    for pieces in STEPS:
        for found, expected, without in zip(
            native.run(*pieces), plain.run(*pieces), exact.run(*pieces), strict=True
        ):
            assert (found - expected).norm() <= 1e-3 * expected.norm()
            assert (found - without).norm() <= 0.015 * without.norm()


@pytest.mark.parametrize("name", ["llama", "llama-mha", "mistral", "qwen3-windows"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cached", DTYPES)
def test_neither_batch_nor_chunks_change_a_bit(
    name: str, dtype: torch.dtype, cached: torch.dtype, kernels: Kernels, checkpoint: Checkpoints
) -> None:
    alone = Decoder(checkpoint(name), dtype, native=True, cached=cached)
    expected = torch.cat([alone.run((0, at, at + 1))[0] for at in range(150)])
    [at_once] = Decoder(checkpoint(name), dtype, native=True, cached=cached).run((0, 0, 150))
    assert torch.equal(at_once, expected)
    together = Decoder(checkpoint(name), dtype, native=True, cached=cached)
    found = [
        together.run((1, 0, 17), (0, 0, 13))[1],
        together.run((0, 13, 14), (2, 0, 5), (1, 17, 18))[0],
        together.run((2, 5, 9), (0, 14, 45), (1, 18, 150))[1],
        together.run((2, 9, 150), (0, 45, 150))[1],
    ]
    assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("name", ["llama", "llama-biased", "mistral", "qwen3-windows"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("drawn", [[], [149], [39, 40, 149]])
def test_rows_that_nobody_draws_from_are_left_out_at_last(
    name: str, dtype: torch.dtype, drawn: list[int], kernels: Kernels, checkpoint: Checkpoints
) -> None:
    step = (0, 0, 40), (1, 0, 1), (2, 0, 109)
    whole = Decoder(checkpoint(name), dtype, native=True, cached=torch.float32)
    few = Decoder(checkpoint(name), dtype, native=True, cached=torch.float32)
    expected, found = whole.draw(None, *step)[drawn], few.draw(drawn, *step)
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    following = (0, 40, 41), (1, 1, 2), (2, 109, 110)
    assert torch.equal(few.draw(None, *following), whole.draw(None, *following))


@pytest.fixture
def _three_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["llama", "llama-mha", "qwen3-windows"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(
    name: str,
    dtype: torch.dtype,
    kernels: Kernels,
    checkpoint: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> None:
    row_by_row = [(2, at, at + 1) for at in range(9)]  # many spans: heads go together
    steps = [[(0, 0, 40)], [(0, 40, 41), (1, 0, 9)], row_by_row]
    alone = Decoder(checkpoint(name), dtype, native=True)
    expected = [alone.run(*step) for step in steps]
    request.getfixturevalue("_three_threads")
    together = Decoder(checkpoint(name), dtype, native=True)
    for logits, step in zip(expected, steps, strict=True):
        assert all(map(torch.equal, together.run(*step), logits))


@pytest.fixture(params=targets_here(), ids=lambda target: target.name)
def any_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Those of each kind of instructions that this CPU has."""
    monkeypatch.setenv("TANDEM_KERNELS", request.param.name)
    loaded = try_load_kernels()
    if loaded is None:
        pytest.skip("needs a C++ compiler")
    assert loaded.target == request.param.name
    return loaded


def product(
    kernels: Kernels, linear: Linear, given: Tensor, *, threads: int = 1, narrows: bool = False
) -> Tensor:
    """What kernels make of a copy of the layer."""
    copied = Linear(linear.weight.clone(), linear.bias)
    packed, rows = pack(kernels, copied), len(given)
    found = torch.full((rows, linear.outputs), float("nan"))
    spare = torch.full((kernels.packed_size(rows, linear.inputs),), float("nan"))
    model = library.ModelArguments(is_bf16=linear.weight.dtype == torch.bfloat16, narrows=narrows)
    addresses = spare.data_ptr(), found.data_ptr()
    kernels.linear(model, packed.structure, given.data_ptr(), rows, *addresses, threads)
    return found


def make_linear(inputs: int, outputs: int, dtype: torch.dtype, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs).to(dtype)
    return Linear(weight, torch.randn(outputs).to(dtype) if bias else None)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (50, 77), (768, 12), (2500, 29), (33, 96)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_any_size(
    dtype: torch.dtype, inputs: int, outputs: int, any_kernels: Kernels
) -> None:
    linear = make_linear(inputs, outputs, dtype)
    given = torch.randn(400, inputs)
    expected = given.double() @ linear.weight.double().t() + linear.bias.double()
    for rows in [*range(1, 16), 48, 181, 400]:
        for threads in (1, 3):
            found = product(any_kernels, linear, given[:rows], threads=threads)
            torch.testing.assert_close(found.double(), expected[:rows], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (50, 77), (2500, 29), (1100, 96)])
def test_products_of_bfloat16_round_what_they_are_given(
    inputs: int, outputs: int, any_kernels: Kernels
) -> None:
    if not any_kernels.can_narrow:
        pytest.skip("these instructions multiply no bfloat16")
    linear = make_linear(inputs, outputs, torch.bfloat16)
    given = torch.randn(400, inputs)
    rounded = given.bfloat16().double()
    expected = rounded @ linear.weight.double().t() + linear.bias.double()
    for rows in [1, 2, 15, 16, 17, 33, 181, 400]:
        for threads in (1, 3):
            found = product(any_kernels, linear, given[:rows], threads=threads, narrows=True)
            torch.testing.assert_close(found.double(), expected[:rows], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("narrows", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_one_product_whatever_is_beside_it(
    dtype: torch.dtype, narrows: bool, any_kernels: Kernels
) -> None:
    linear, given = make_linear(900, 70, dtype), torch.randn(300, 900)
    narrows = narrows and any_kernels.can_narrow
    whole = product(any_kernels, linear, given, narrows=narrows)
    for first, rows in [(0, 1), (7, 5), (100, 43), (17, 200)]:
        some = product(any_kernels, linear, given[first : first + rows], narrows=narrows, threads=2)
        assert torch.equal(some, whole[first : first + rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_instructions_compute_what_torch_does(
    dtype: torch.dtype, any_kernels: Kernels, checkpoint: Checkpoints
) -> None:
    native = Decoder(checkpoint("qwen3-windows"), dtype, native=True, cached=torch.float32)
    plain = Decoder(checkpoint("qwen3-windows"), torch.float32, native=False, stored=dtype)
    for pieces in STEPS:
        for found, expected in zip(native.run(*pieces), plain.run(*pieces), strict=True):
            assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("outputs", [48, 77])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_back_from_panels(
    dtype: torch.dtype, outputs: int, any_kernels: Kernels
) -> None:
    weight = make_linear(50, outputs, dtype).weight
    packed, ids = pack(any_kernels, Linear(weight.clone())), torch.tensor([0, outputs - 1, 17, 17])
    found = torch.full((4, 50), float("nan"))
    is_bf16 = dtype == torch.bfloat16
    any_kernels.read(packed.structure, is_bf16, ids.data_ptr(), 4, found.data_ptr())
    assert torch.equal(found, weight[ids].float())


def test_without_a_compiler_torch_computes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    checkpoint: Callable[[str], Path],
) -> None:
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    decoder = Decoder(checkpoint("llama"), torch.float32, native=True)
    assert not decoder.model.native
    assert "none of g++, clang++, c++ is installed" in caplog.text
    assert decoder.run((0, 0, 5))[0].isfinite().all()


def test_other_dtypes_are_left_to_torch(checkpoint: Callable[[str], Path]) -> None:
    assert not Decoder(checkpoint("llama"), torch.float16, native=True).model.native


def threads_by_layer(decoder: Decoder, num_rows: int) -> list[int]:
    """What torch had when a step looked for idle cores; there is one beside its own."""
    num_threads: list[int] = []

    def read() -> CpuTimes:
        num_threads.append(torch.get_num_threads())
        at = float(len(num_threads))  # a second has passed, in which nobody used a core
        return CpuTimes(at, 2 * at, 0.0, num_running=1)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        threads = Threads(1, 2, Cores(2, 2), read=read, clock=lambda: float(len(num_threads)))
        decoder.model.take_idle_cores(threads)
        decoder.run((0, 0, num_rows))
        return num_threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_rows", [1, 100, 150])
def test_steps_take_idle_cores_in_each_layer(
    num_rows: int, kernels: Kernels, checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_step, "_WORTH_SHARING", 0)
    decoder = Decoder(checkpoint("llama"), torch.bfloat16, native=True, cached=torch.float32)
    assert threads_by_layer(decoder, num_rows) == [1, *[2] * (decoder.num_layers - 1)]


def test_a_step_that_computes_little_looks_for_no_cores(
    kernels: Kernels, checkpoint: Checkpoints
) -> None:
    decoder = Decoder(checkpoint("llama"), torch.bfloat16, native=True, cached=torch.float32)
    assert threads_by_layer(decoder, 3) == []
