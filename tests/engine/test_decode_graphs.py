"""Recorded decode steps, with a recorder that repeats them eagerly: what a graph would compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.errors import ConfigError
from engine.model.config import read_config
from engine.model.parameters import allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import find_weights, load_weights
from engine.runners.cache_shape import cache_layout
from engine.runners.captured_step import Compute, run_eagerly
from engine.runners.decode_graphs import capture_sizes
from engine.runners.torch_runner import StepSettings, TorchRunner
from tests.engine.driver import make_sequence
from tests.engine.reference import Reference, prompt
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick

NUM_BLOCKS = 96
CPU = torch.device("cpu")


def a_runner(directory: Path, max_sequences: int = 6) -> TorchRunner:
    """Of PyTorch's operations, like one on a GPU."""
    config = read_config(directory)
    parameters = allocate_parameters(config, torch.float32, CPU)
    load_weights(find_weights(directory), checkpoint_targets(config, parameters), None)
    model = Transformer(config, parameters, CPU, native=False)
    layout = cache_layout(config, 4, torch.float32)
    settings = StepSettings(graphs="lazy", max_sequences=max_sequences)
    runner = TorchRunner(
        config, model, layout, CPU, model_hash="", max_model_len=256, settings=settings
    )
    runner.allocate(NUM_BLOCKS + 1)
    return runner


def answers(engine: Engine, requests: list[tuple[list[int], SamplingParams]]) -> list[list[int]]:
    sequences = [
        make_sequence(tokens, sampling, name=str(number))
        for number, (tokens, sampling) in enumerate(requests)
    ]
    for sequence in sequences:
        engine.add(sequence)
        engine.step()
    while engine.busy:
        engine.step()
    return [sequence.tokens for sequence in sequences]


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
@pytest.mark.parametrize("name", ["llama", "llama-dynamic", "qwen2-windows", "qwen3", "mistral"])
def test_recorded_steps_give_the_answers_of_the_reference(
    name: str,
    kind: type[Engine],
    checkpoint: Callable[[str], Path],
    reference: Callable[[str], Reference],
) -> None:
    runner = a_runner(checkpoint(name))
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    lengths = (9, 21, 5, 13, 30)
    engine = kind(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=11))
    made = answers(engine, [(prompt(n), greedy(30 - n // 2)) for n in lengths])
    for tokens, n in zip(made, lengths, strict=True):
        assert tokens[n:] == reference(name).greedy(prompt(n), 30 - n // 2)


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
def test_preempted_sequences_come_back_with_other_blocks(
    kind: type[Engine], checkpoint: Callable[[str], Path], reference: Callable[[str], Reference]
) -> None:
    runner = a_runner(checkpoint("llama"), max_sequences=3)
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    engine = kind(runner, BlockPool(24), DecodePolicy(chunk_tokens=11))
    lengths = (9, 21, 5, 13, 17, 6)
    made = answers(engine, [(prompt(n), greedy(40)) for n in lengths])
    assert engine.num_preemptions > 0
    for tokens, n in zip(made, lengths, strict=True):
        assert tokens[n:] == reference("llama").greedy(prompt(n), 40)


def test_every_size_is_recorded_once(checkpoint: Callable[[str], Path]) -> None:
    recorded = []

    def record(compute: Compute) -> Compute:
        recorded.append(compute)
        return compute

    runner = a_runner(checkpoint("llama"))
    runner.capture_steps(record, spare_block=NUM_BLOCKS)
    requests = [(prompt(n), greedy(8)) for n in (4, 5, 6)]
    for _ in range(2):
        answers(Engine(runner, BlockPool(NUM_BLOCKS), DecodePolicy()), requests)
    # Of up to four rows, over tables of two and of four blocks.
    assert 3 <= len(recorded) <= 6


def test_larger_steps_and_prompts_are_computed_as_they_come(
    checkpoint: Callable[[str], Path], reference: Callable[[str], Reference]
) -> None:
    runner = a_runner(checkpoint("llama"), max_sequences=2)
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    engine = AsyncEngine(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=5))
    made = answers(engine, [(prompt(n), greedy(12)) for n in (7, 11, 3)])
    for tokens, n in zip(made, (7, 11, 3), strict=True):
        assert tokens[n:] == reference("llama").greedy(prompt(n), 12)


def test_rows_that_are_left_over_touch_nobody_s_block(checkpoint: Callable[[str], Path]) -> None:
    runner = a_runner(checkpoint("llama"))
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    pool = BlockPool(NUM_BLOCKS)
    engine = Engine(runner, pool, DecodePolicy())
    answers(engine, [(prompt(6), greedy(6)) for _ in range(3)])
    memory = runner.cache.memory.view(NUM_BLOCKS + 1, -1)
    used = {block for block in range(NUM_BLOCKS) if memory[block].any()}
    assert used == set(range(len(used)))  # the pool gives low numbers first
    assert memory[NUM_BLOCKS].any()


def test_nan_of_a_former_owner_is_not_seen(
    checkpoint: Callable[[str], Path], reference: Callable[[str], Reference]
) -> None:
    runner = a_runner(checkpoint("llama"))
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    runner.cache.memory.view(torch.float32)[: NUM_BLOCKS * 512].fill_(float("nan"))
    engine = Engine(runner, BlockPool(NUM_BLOCKS), DecodePolicy())
    [made] = answers(engine, [(prompt(6), greedy(20))])
    assert made[6:] == reference("llama").greedy(prompt(6), 20)


def test_nor_is_it_when_a_step_computes_prompts_too(
    checkpoint: Callable[[str], Path], reference: Callable[[str], Reference]
) -> None:
    runner = a_runner(checkpoint("llama"))
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    runner.cache.memory.view(torch.float32)[: NUM_BLOCKS * 512].fill_(float("nan"))
    engine = Engine(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=11))
    first = make_sequence(prompt(6), greedy(20), name="first")
    engine.add(first)
    for number in range(12):  # captured steps begin blocks, and mixed ones read them
        engine.step()
        if number % 2:
            engine.add(make_sequence(prompt(30)[number:][:5], greedy(1), name=str(number)))
    while engine.busy:
        engine.step()
    assert first.tokens[6:] == reference("llama").greedy(prompt(6), 20)


def test_what_larger_steps_left_in_the_buffer_is_taken_for_no_block(
    checkpoint: Callable[[str], Path], reference: Callable[[str], Reference]
) -> None:
    runner = a_runner(checkpoint("llama"), max_sequences=8)
    runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    engine = Engine(runner, BlockPool(NUM_BLOCKS), DecodePolicy())
    alone = [(prompt(14), greedy(8))]  # a table of five blocks, where there is room for eight
    [before] = answers(engine, alone)
    assert runner._graphs is not None
    runner._graphs._buffer.fill_(1 << 20)  # as token ids are
    [after] = answers(engine, alone)
    assert before == after == [*prompt(14), *reference("llama").greedy(prompt(14), 8)]


@pytest.mark.parametrize(
    ("most", "rungs"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])]
)
def test_the_ladder_ends_where_it_must(most: int, rungs: list[int]) -> None:
    assert capture_sizes(most) == rungs


def test_settings_of_steps_are_checked() -> None:
    with pytest.raises(ConfigError, match='graphs "never"'):
        StepSettings(graphs="never")
    with pytest.raises(ConfigError, match="max_sequences 0"):
        StepSettings(max_sequences=0)
