"""The torch runner with host memory behind a small cache gives the tokens of a large one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_copier import Copy, runs
from engine.cache.block_pool import BlockPool
from engine.cache.cuda_block_copier import CudaCopier
from engine.engine import Engine
from engine.runners.torch_loading import load_torch_runner
from engine.sequence import Sequence
from tests.engine.driver import make_sequence, output
from tests.engine.reference import prompt
from wire.sampling import SamplingParams
from worker.build import make_host_tier

Checkpoints = Callable[[str], Path]
GREEDY = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
NAN_BYTE = 0xFF


def an_engine(directory: Path, num_blocks: int, num_host_blocks: int, device: str) -> Engine:
    """Its cache is full of NaN at first."""
    runner = load_torch_runner(directory, device=device, dtype="float32", block_size=4)
    region, pool = runner.allocate(num_blocks), BlockPool(num_blocks)
    assert isinstance(region.keepalive, Tensor)
    region.keepalive.fill_(NAN_BYTE)
    num_bytes = num_host_blocks * runner.layout.block_bytes
    tier = make_host_tier(num_bytes, runner.layout, pool, region)
    return Engine(runner, pool, DecodePolicy(8, 8, headroom_blocks=0), None, tier)


def serve(engine: Engine, prompts: list[tuple[int, ...]]) -> list[Sequence]:
    sequences = [make_sequence(p, GREEDY, name=f"{n}") for n, p in enumerate(prompts)]
    for sequence in sequences:
        engine.add(sequence)
    finish(engine)
    return sequences


def finish(engine: Engine) -> None:
    """Copies are made by a thread, or by a GPU."""
    deadline = time.monotonic() + 60
    while engine.busy:
        assert time.monotonic() < deadline
        engine.step()
        engine.memory.check_integrity()


ROUNDS = [
    [prompt(30 + n)[n:] for n in range(4)],
    [prompt(60)[20 + n :] for n in range(5)],
    [prompt(30 + n)[n:] for n in range(4)],
    [prompt(30)] * 3,
]


def check_parity(directory: Path, device: str) -> None:
    small, large = an_engine(directory, 24, 200, device), an_engine(directory, 400, 0, device)
    num_cached = 0
    for prompts in ROUNDS:
        mine, theirs = serve(small, prompts), serve(large, prompts)
        assert [output(s) for s in mine] == [output(s) for s in theirs]
        num_cached += sum(sequence.num_cached for sequence in mine)
    assert small.num_preemptions > 0
    assert num_cached > 0
    small.memory.close()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_a_small_cache_gives_the_tokens_of_a_large_one(
    name: str, native: bool, checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr("engine.model.transformer.try_native", lambda *_: None)
    check_parity(checkpoint(name), "cpu")


def test_neighbours_on_both_sides_are_copied_together() -> None:
    assert list(runs((3, 4, 5, 9, 2, 3), (0, 1, 2, 3, 4, 6))) == [
        (3, 0, 3),
        (9, 3, 1),
        (2, 4, 1),
        (3, 6, 1),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_saves_and_loads_blocks() -> None:
    cache = torch.arange(6 * 16, dtype=torch.uint8, device="cuda:0")
    before = cache.view(6, 16).clone()
    copier = CudaCopier(cache, num_host_blocks=4, block_bytes=16)
    copier.start(Copy(1, (1, 2, 5), (3, 0, 1), up=False))
    wait_for(copier)
    cache.zero_()
    copier.start(Copy(2, (0, 3), (3, 1), up=True))
    wait_for(copier)
    assert torch.equal(cache.view(6, 16)[[0, 3]], before[[1, 5]])


def wait_for(copier: CudaCopier) -> None:
    """Until a copy has been made."""
    deadline = time.monotonic() + 60
    while not copier.take_copied():
        assert time.monotonic() < deadline


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_with_a_small_cache_gives_the_tokens_of_a_large_one(checkpoint: Checkpoints) -> None:
    check_parity(checkpoint("llama"), "cuda:0")
