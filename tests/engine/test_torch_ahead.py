"""The torch runner's steps in two parts: what only the device knows feeds the next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runner import Slice
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from engine.sequence import Sequence
from tests.engine.driver import GREEDY, give_blocks, make_sequence
from tests.engine.reference import Reference, prompt
from wire.sampling import SamplingParams

NUM_BLOCKS = 96


@pytest.fixture(scope="module")
def runner(checkpoint: Callable[[str], Path]) -> TorchRunner:
    loaded = load_torch_runner(checkpoint("llama"), device="cpu", block_size=4)
    loaded.allocate(NUM_BLOCKS)
    return loaded


def answers(engine: Engine, requests: list[tuple[list[int], SamplingParams]]) -> list[list[int]]:
    sequences = [
        make_sequence(tokens, sampling, name=str(number))
        for number, (tokens, sampling) in enumerate(requests)
    ]
    for sequence in sequences[: len(sequences) // 2]:
        engine.add(sequence)
    for _ in range(5):
        engine.step()
    for sequence in sequences[len(sequences) // 2 :]:
        engine.add(sequence)
    while engine.busy:
        engine.step()
    assert engine.pool.num_free == NUM_BLOCKS
    return [sequence.tokens for sequence in sequences]


def test_launched_ahead_every_request_gets_the_same_answer(runner: TorchRunner) -> None:
    def sampled(seed: int, **changes: object) -> SamplingParams:
        return SamplingParams(**{"max_tokens": 20, "seed": seed, "temperature": 1.3, **changes})

    requests = [
        (prompt(9), SamplingParams(max_tokens=25, temperature=0.0, ignore_eos=True)),
        (prompt(13), sampled(1, top_p=0.9)),
        (prompt(30), sampled(2, top_k=7, min_tokens=5, stop_token_ids=tuple(range(0, 101, 3)))),
        (prompt(5), sampled(3, logprobs=2)),
        (prompt(21), sampled(4, min_p=0.1, stop_token_ids=tuple(range(0, 101, 7)))),
        (prompt(17), sampled(5, repetition_penalty=1.2, max_tokens=6)),
    ]
    policy = DecodePolicy(chunk_tokens=11, prefill_tokens=7)
    together = answers(Engine(runner, BlockPool(NUM_BLOCKS), policy), requests)
    ahead = answers(AsyncEngine(runner, BlockPool(NUM_BLOCKS), policy), requests)
    assert ahead == together


def test_a_step_can_follow_one_that_nobody_has_seen(
    runner: TorchRunner, reference: Callable[[str], Reference]
) -> None:
    sequence = make_sequence(prompt(9), GREEDY)
    give_blocks(sequence, BlockPool(NUM_BLOCKS), 20)
    first = runner.launch([Slice(sequence, 0, 9)])
    sequence.num_unknown, sequence.num_computed = 1, 9
    second = runner.launch([Slice(sequence, 9, 1)])
    sequence.num_unknown, sequence.num_computed = 2, 10
    third = runner.launch([Slice(sequence, 10, 1)])
    tokens = [made.token for step in (first, second, third) for draws in step() for made in draws]
    assert tokens == reference("llama").greedy(prompt(9), 3)


def test_a_step_that_draws_nothing_is_collected_too(runner: TorchRunner) -> None:
    sequence: Sequence = make_sequence(prompt(9))
    give_blocks(sequence, BlockPool(NUM_BLOCKS), 9)
    assert runner.launch([Slice(sequence, 0, 4)])() == [()]
