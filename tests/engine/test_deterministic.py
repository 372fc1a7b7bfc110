"""The same request alone and in a crowd: with `deterministic`, no bit of its answer differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.errors import ConfigError
from engine.kernels import library
from engine.runner import Sampled
from engine.runners.torch_loading import load_torch_runner
from tests.engine.driver import make_sequence
from tests.engine.reference import prompt
from wire.sampling import SamplingParams

Checkpoints = Callable[[str], Path]
SAMPLING = SamplingParams(
    max_tokens=12, temperature=0.8, seed=3, logprobs=2, ignore_eos=True, top_p=0.95
)


def answer(directory: Path, dtype: str, num_others: int, chunk_tokens: int) -> list[Sampled]:
    """What is drawn for one request, with its log-probabilities to the last bit."""
    runner = load_torch_runner(
        directory, device="cpu", dtype=dtype, block_size=4, deterministic=True
    )
    runner.allocate(512)
    policy = DecodePolicy(chunk_tokens=chunk_tokens, prefill_tokens=chunk_tokens)
    engine = Engine(runner, BlockPool(512), policy)
    for number in range(num_others):
        engine.add(make_sequence(prompt(30 + number), SAMPLING, name=f"other {number}"))
    wanted = make_sequence(prompt(150)[60:], SAMPLING)
    engine.add(wanted)
    drawn: list[Sampled] = []
    while len(drawn) < SAMPLING.max_tokens:
        steps = engine.step()
        drawn += [each for it in steps if it.sequence is wanted for each in it.sampled]
    return drawn


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_crowd_changes_no_bit(checkpoint: Checkpoints, name: str, dtype: str) -> None:
    if library.try_load_kernels() is None:
        pytest.skip("needs a C++ compiler")
    alone = answer(checkpoint(name), dtype, 0, chunk_tokens=512)
    assert answer(checkpoint(name), dtype, 9, chunk_tokens=512) == alone
    assert answer(checkpoint(name), dtype, 3, chunk_tokens=23) == alone


def test_where_it_cannot_be_had_it_is_refused(checkpoint: Checkpoints) -> None:
    with pytest.raises(ConfigError, match="compiled kernels"):
        load_torch_runner(checkpoint("llama"), device="cpu", dtype="float16", deterministic=True)
