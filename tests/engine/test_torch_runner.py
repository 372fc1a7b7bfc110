"""What a runner promises beside its tokens: memory, settings, devices."""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.cache.block_pool import BlockPool
from engine.device.device import Precision, choose_device, choose_precision
from engine.device.memory import allocate_zeros, empty, free_host_bytes
from engine.errors import ConfigError
from engine.runner import Runner, Slice
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from engine.sequence import Sequence
from tests.engine.driver import GREEDY, decode, give_blocks, make_sequence, output, step
from tests.engine.reference import Reference, prompt
from wire.sampling import SamplingParams

Checkpoints = Callable[[str], Path]
MiB = 1 << 20


def test_the_runner_describes_its_model(checkpoint: Checkpoints) -> None:
    runner: Runner = load_torch_runner(checkpoint("qwen3"), device="cpu", block_size=8)
    layout = runner.layout
    assert (layout.num_layers, layout.num_kv_heads, layout.head_size) == (2, 2, 16)
    assert (layout.block_size, layout.dtype) == (8, "float32")
    assert (runner.vocab_size, runner.max_model_len) == (101, 256)
    assert runner.model_hash == load_torch_runner(checkpoint("qwen3"), device="cpu").model_hash


def test_no_slices_give_no_results(runner: Callable[[str], TorchRunner]) -> None:
    assert runner("llama").run([]) == []


def test_a_slice_that_does_not_reach_the_end_samples_nothing(
    runner: Callable[[str], TorchRunner],
) -> None:
    sequence = make_sequence(prompt(9))
    give_blocks(sequence, BlockPool(128), 9)
    assert runner("llama").run([Slice(sequence, 0, 5)]) == [()]
    assert len(sequence.tokens) == 9
    assert sequence.num_computed == 0


def test_layers_are_in_the_cache_when_it_says_so(
    checkpoint: Checkpoints,
) -> None:
    runner = load_torch_runner(checkpoint("llama"), device="cpu", block_size=4)
    memory, sequence = runner.allocate(8).keepalive, make_sequence(prompt(9))
    assert isinstance(memory, Tensor)
    give_blocks(sequence, BlockPool(8), 9)
    layers = memory.view(8, runner.layout.num_layers, runner.layout.layer_bytes)
    seen: list[Tensor] = []
    runner.run(
        [Slice(sequence, 0, 9)],
        lambda number: seen.append(layers[sequence.blocks, len(seen) : number].clone()),
    )
    assert len(seen) == runner.layout.num_layers
    assert torch.equal(torch.cat(seen, 1), layers[sequence.blocks])


def test_sampled_sequences_do_not_depend_on_their_batch(
    runner: Callable[[str], TorchRunner],
) -> None:
    def make(seed: int) -> Sequence:
        sampling = SamplingParams(max_tokens=99, seed=seed, temperature=1.5, top_p=0.95)
        return make_sequence(prompt(10 + seed), sampling)

    alone = []
    for seed in range(5):
        sequence = make(seed)
        give_blocks(sequence, BlockPool(128), 60)
        decode(runner("llama"), [sequence], 40)
        alone.append(output(sequence))
    pool, together = BlockPool(128), [make(seed) for seed in range(5)]
    for sequence in together:
        give_blocks(sequence, pool, 60)
    step(runner("llama"), [(sequence, 7) for sequence in together])
    decode(runner("llama"), together, 40)
    assert [output(sequence) for sequence in together] == alone


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_sixteen_bits_compute_about_the_same(
    dtype: str, tolerance: float, checkpoint: Checkpoints, runner: Callable[[str], TorchRunner]
) -> None:
    narrow = load_torch_runner(checkpoint("llama"), device="cpu", dtype=dtype, block_size=4)
    assert narrow.layout.dtype == dtype
    region = narrow.allocate(16)
    assert region.num_bytes == 16 * narrow.layout.block_bytes
    logprobs = []
    for each in (runner("llama"), narrow):
        sampling = SamplingParams(max_tokens=9, temperature=0.0, logprobs=101)
        sequence = make_sequence(prompt(30), sampling)
        give_blocks(sequence, BlockPool(16), 30)
        [sampled] = step(each, [(sequence, 30)])
        assert sampled is not None
        assert sampled.logprob is not None
        found = dict(zip(sampled.logprob.top_ids, sampled.logprob.top_logprobs, strict=True))
        logprobs.append(torch.tensor([math.exp(found[id]) for id in range(101)]))
    assert (logprobs[0] - logprobs[1]).abs().max() < tolerance


def test_the_region_is_the_cache(checkpoint: Checkpoints) -> None:
    runner = load_torch_runner(checkpoint("llama"), device="cpu", block_size=4)
    region = runner.allocate(8)
    assert region.device == "cpu"
    assert region.address % mmap.PAGESIZE == 0
    assert region.num_bytes == 8 * runner.layout.block_bytes
    memory = (ctypes.c_uint8 * region.num_bytes).from_address(region.address)
    assert not any(memory)
    sequence = make_sequence(prompt(6))
    sequence.blocks = [5, 2]
    step(runner, [(sequence, 6)])
    size = runner.layout.block_bytes
    used = {block for block in range(8) if any(memory[block * size : (block + 1) * size])}
    assert used == {2, 5}


def test_host_memory_stays_mapped_when_its_owner_is_gone() -> None:
    memory = allocate_zeros(MiB, torch.device("cpu"))
    memory[7] = 9
    address = memory.data_ptr()
    del memory
    gc.collect()
    assert (ctypes.c_uint8 * MiB).from_address(address)[7] == 9


def test_host_memory_is_committed_when_touched() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    memory = allocate_zeros(512 * MiB, torch.device("cpu"))
    assert resident() - before < 64 * MiB
    assert memory[-1] == 0


def test_blocks_fit_into_given_bytes_or_into_a_fraction(
    runner: Callable[[str], TorchRunner],
) -> None:
    loaded, size = runner("llama"), runner("llama").layout.block_bytes
    assert loaded.fit_num_blocks(size * 7 + size - 1, 0.5) == 7
    half = loaded.fit_num_blocks(None, 0.5) * size
    assert half == pytest.approx(free_host_bytes() / 2, rel=0.2)


def test_not_one_block_is_an_error_that_says_what_one_takes(
    runner: Callable[[str], TorchRunner],
) -> None:
    size = runner("llama").layout.block_bytes
    with pytest.raises(ConfigError, match=f"a block of 4 tokens takes {size} bytes"):
        runner("llama").fit_num_blocks(size - 1, 0.9)


def test_a_cache_larger_than_the_address_space_is_an_error(checkpoint: Checkpoints) -> None:
    runner = load_torch_runner(checkpoint("llama"), device="cpu")
    with pytest.raises(ConfigError, match=r"blocks, \d+ bytes, cannot be allocated on cpu"):
        runner.allocate(1 << 40)


def write_host(root: Path, limits: dict[str, str], membership: str) -> Path:
    """A root directory with 8 GiB available and the given files of control groups."""
    files = {
        "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "proc/self/cgroup": membership,
        **limits,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("limits", "membership", "expected"),
    [
        ({}, "0::/\n", 8 << 30),
        ({"memory.max": "max"}, "0::/\n", 8 << 30),
        ({"memory.max": str(3 << 30)}, "0::/\n", 2 << 30),
        ({"pod/memory.max": str(2 << 30)}, "0::/pod/worker\n", 1 << 30),
        ({"memory/memory.limit_in_bytes": str(3 << 30)}, "4:cpu:/\n3:memory:/x\n", 2 << 30),
    ],
)
def test_control_groups_limit_what_is_free(
    limits: dict[str, str], membership: str, expected: int, tmp_path: Path
) -> None:
    files = {}
    for name, text in limits.items():
        folder = Path("sys/fs/cgroup", name).parent
        usage = "memory.current" if name.endswith(".max") else "memory.usage_in_bytes"
        files[f"sys/fs/cgroup/{name}"] = text + "\n"
        files[f"{folder}/{usage}"] = f"{(3 << 30) // 2}\n"
        files[f"{folder}/memory.stat"] = f"anon 7\ninactive_file {1 << 29}\n"
    assert free_host_bytes(write_host(tmp_path, files, membership)) == expected


def test_a_machine_without_control_groups_has_what_it_has(tmp_path: Path) -> None:
    write_host(tmp_path, {}, "")
    (tmp_path / "proc/self/cgroup").unlink()
    assert free_host_bytes(tmp_path) == 8 << 30


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"block_size": 24}, "block_size 24: expected a power of two from 1 to 256"),
        ({"block_size": 0}, "block_size 0: expected a power of two"),
        ({"max_model_len": 257}, "max_model_len 257: this model supports 1 to 256 tokens"),
        ({"max_model_len": 0}, "max_model_len 0: this model supports"),
        ({"threads": 0}, "threads 0: expected at least 1"),
        ({"dtype": "int8"}, 'dtype "int8": expected "auto", '),
        ({"cache_dtype": "int8"}, 'cache_dtype "int8": expected "auto", '),
        ({"device": "tpu"}, 'device "tpu": expected "auto", "cpu" or "cuda:N"'),
        ({"device": "cuda:first"}, 'device "cuda:first": expected'),
        ({"device": "cuda:4096"}, 'device "cuda:4096": '),
    ],
)
def test_settings_that_cannot_work_are_named(
    settings: dict[str, object], reason: str, checkpoint: Checkpoints
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_torch_runner(checkpoint("llama"), **{"device": "cpu", **settings})
    assert reason in str(caught.value)


def test_a_shorter_length_is_taken(checkpoint: Checkpoints) -> None:
    runner = load_torch_runner(checkpoint("llama-linear"), device="cpu", max_model_len=1000)
    assert runner.max_model_len == 1000


@pytest.mark.parametrize("rows", [1, 2048])
def test_large_tensors_are_memory_as_any_other(rows: int) -> None:
    tensor = empty((rows, 1024), torch.bfloat16, torch.device("cpu"))
    assert (tensor.shape, tensor.dtype) == ((rows, 1024), torch.bfloat16)
    assert tensor.fill_(3.0).eq(3.0).all()


FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "cache_dtype", "device", "stored", "expected"),
    [
        ("auto", "auto", "cpu", BFLOAT, Precision(BFLOAT, FLOAT, FLOAT)),
        ("auto", "auto", "cpu", HALF, Precision(FLOAT, FLOAT, FLOAT)),
        ("auto", "bfloat16", "cpu", BFLOAT, Precision(BFLOAT, FLOAT, BFLOAT)),
        ("bfloat16", "auto", "cpu", BFLOAT, Precision(BFLOAT, BFLOAT, BFLOAT)),
        ("bfloat16", "float32", "cpu", FLOAT, Precision(BFLOAT, BFLOAT, FLOAT)),
        ("float32", "auto", "cpu", BFLOAT, Precision(FLOAT, FLOAT, FLOAT)),
        ("auto", "auto", "cuda:0", BFLOAT, Precision(BFLOAT, BFLOAT, BFLOAT)),
        ("float16", "auto", "cuda:0", BFLOAT, Precision(HALF, HALF, HALF)),
    ],
)
def test_precision_follows_settings_device_and_checkpoint(
    dtype: str, cache_dtype: str, device: str, stored: torch.dtype, expected: Precision
) -> None:
    args = dtype, cache_dtype, torch.device(device), stored
    assert choose_precision(*args, has_kernels=lambda: True) == expected


def test_without_kernels_a_cpu_holds_in_float32_what_it_computes_in_float32() -> None:
    precision = choose_precision("auto", "auto", torch.device("cpu"), BFLOAT, lambda: False)
    assert precision == Precision(FLOAT, FLOAT, FLOAT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_auto_is_the_cpu_without_a_gpu() -> None:
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "name", ["llama-bf16", "llama-dynamic", "llama-yarn", "mistral", "qwen2-windows", "qwen3"]
)
def test_a_gpu_in_bfloat16_follows_the_reference(
    name: str, checkpoint: Checkpoints, reference: Callable[[str], Reference]
) -> None:
    runner = load_torch_runner(checkpoint(name), device="cuda:0", dtype="bfloat16", block_size=16)
    region = runner.allocate(64)
    assert region.device == "cuda:0"
    sampling = SamplingParams(max_tokens=99, temperature=0.0, ignore_eos=True, logprobs=101)
    sequence = make_sequence(prompt(70), sampling)
    give_blocks(sequence, BlockPool(64), 200)
    step(runner, [(sequence, 31)])
    decoded = []
    while sequence.num_output < 24:
        decoded += step(runner, [(sequence, sequence.num_uncomputed)])
    expected = reference(name).logits(sequence.tokens)[69:].softmax(-1)
    for row, sampled in enumerate(decoded):
        assert sampled is not None
        assert sampled.logprob is not None
        best = expected[row].max()
        assert expected[row, sampled.token] > 0.7 * best
        assert math.exp(sampled.logprob.logprob) == pytest.approx(
            expected[row, sampled.token].item(), abs=0.15
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "llama-biased", "mistral", "qwen3-windows"])
def test_a_gpu_in_float32_gives_the_same_tokens(
    name: str, checkpoint: Checkpoints, reference: Callable[[str], Reference]
) -> None:
    runner = load_torch_runner(checkpoint(name), device="cuda:0", dtype="float32", block_size=16)
    runner.allocate(64)
    sequence = make_sequence(prompt(70), GREEDY)
    give_blocks(sequence, BlockPool(64), 200)
    step(runner, [(sequence, 31)])
    decode(runner, [sequence], 64)
    assert output(sequence) == reference(name).greedy(prompt(70), 64)
