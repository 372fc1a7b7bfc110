"""The decoder agrees with transformers, token by token, however its work is cut up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.attention.backend import SequenceRows
from engine.attention.torch_backend import TorchBackend
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.model.config import read_config
from engine.model.parameters import allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import find_weights, load_weights
from engine.runner import Runner
from tests.engine.checkpoints import RECIPES
from tests.engine.driver import (
    ChunkPolicy,
    decode,
    give_blocks,
    make_sequence,
    output,
    step,
)
from tests.engine.reference import Reference, prompt
from wire.sampling import SamplingParams

NUM_NEW = 64

Runners = Callable[[str], Runner]
References = Callable[[str], Reference]
every_checkpoint = pytest.mark.parametrize("name", RECIPES)


def logits_of(directory: Path, tokens: tuple[int, ...], *, native: bool) -> torch.Tensor:
    """Float32 logits [tokens, vocab_size] of all tokens, in one pass on the CPU."""
    cpu = torch.device("cpu")
    config = read_config(directory)
    parameters = allocate_parameters(config, torch.float32, cpu)
    load_weights(find_weights(directory), checkpoint_targets(config, parameters))
    cache = torch.zeros(40, config.num_layers, 2, config.num_kv_heads, 4, config.head_size)
    batch = TorchBackend(cache, config.windows).prepare([SequenceRows(0, len(tokens), range(40))])
    positions = torch.arange(len(tokens))
    lengths = torch.full_like(positions, len(tokens))
    model = Transformer(config, parameters, cpu, native=native)
    return model.logits(model.forward(torch.tensor(tokens), positions, lengths, batch))


@every_checkpoint
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("length", [1, 30, 90])
def test_logits_agree_with_transformers(
    name: str, length: int, native: bool, checkpoint: Callable[[str], Path], reference: References
) -> None:
    expected = reference(name).logits(prompt(length))
    found = logits_of(checkpoint(name), prompt(length), native=native)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@every_checkpoint
@pytest.mark.parametrize("length", [3, 70])
def test_a_prompt_at_once_continues_as_transformers_does(
    name: str, length: int, runner: Runners, reference: References
) -> None:
    sequence = make_sequence(prompt(length))
    give_blocks(sequence, BlockPool(128), length + NUM_NEW)
    decode(runner(name), [sequence], NUM_NEW)
    assert output(sequence) == reference(name).greedy(prompt(length), NUM_NEW)


@every_checkpoint
def test_a_prompt_in_uneven_chunks_continues_the_same(
    name: str, runner: Runners, reference: References
) -> None:
    sequence = make_sequence(prompt(70))
    give_blocks(sequence, BlockPool(128), 70 + NUM_NEW)
    for count in (1, 13, 2, 31, 1):
        assert step(runner(name), [(sequence, count)]) == [None]
    decode(runner(name), [sequence], NUM_NEW)
    assert output(sequence) == reference(name).greedy(prompt(70), NUM_NEW)


@every_checkpoint
def test_a_shared_prefix_is_as_good_as_a_computed_one(
    name: str, runner: Runners, reference: References
) -> None:
    pool = BlockPool(128)
    first, second = make_sequence(prompt(70)), make_sequence(prompt(41) + prompt(29, seed=1))
    give_blocks(first, pool, 70 + NUM_NEW)
    decode(runner(name), [first], 1)
    second.blocks, second.num_computed = first.blocks[:10], 40
    give_blocks(second, pool, 70 + NUM_NEW)
    decode(runner(name), [second, first], NUM_NEW)
    for sequence in (first, second):
        expected = reference(name).greedy(tuple(sequence.tokens[:70]), NUM_NEW)
        assert output(sequence) == expected


@every_checkpoint
def test_mixed_batches_of_different_lengths_continue_the_same(
    name: str, runner: Runners, reference: References
) -> None:
    pool = BlockPool(128)
    prompts = (prompt(3), prompt(70), prompt(30), prompt(41) + prompt(29, seed=1))
    sequences = [make_sequence(tokens) for tokens in prompts]
    for sequence in sequences:
        give_blocks(sequence, pool, len(sequence.tokens) + NUM_NEW)
    step(runner(name), [(sequences[0], 3), (sequences[1], 29)])
    step(runner(name), [(sequences[2], 7), (sequences[1], 17), (sequences[0], 1)])
    step(runner(name), [(sequences[0], 1), (sequences[1], 24), (sequences[3], 70)])
    decode(runner(name), sequences, NUM_NEW)
    for tokens, sequence in zip(prompts, sequences, strict=True):
        assert output(sequence) == reference(name).greedy(tokens, NUM_NEW)


@every_checkpoint
def test_a_preempted_sequence_recomputes_elsewhere_and_continues_the_same(
    name: str, runner: Runners, reference: References
) -> None:
    pool = BlockPool(128)
    sequence = make_sequence(prompt(30))
    give_blocks(sequence, pool, 30 + 25)
    decode(runner(name), [sequence], 25)
    sequence.blocks, sequence.num_computed = [], 0
    give_blocks(sequence, pool, 30 + NUM_NEW)
    step(runner(name), [(sequence, 17)])
    decode(runner(name), [sequence], NUM_NEW)
    assert output(sequence) == reference(name).greedy(prompt(30), NUM_NEW)


@pytest.mark.parametrize("name", ["llama", "llama-dynamic", "mistral", "qwen2-windows", "qwen3"])
@pytest.mark.parametrize(("num_blocks", "chunk"), [(128, 1000), (60, 9)])
def test_the_engine_continues_as_transformers_does(
    name: str, num_blocks: int, chunk: int, runner: Runners, reference: References
) -> None:
    pool = BlockPool(num_blocks)
    engine = Engine(runner(name), pool, ChunkPolicy(chunk))
    prompts = [prompt(70), prompt(41) + prompt(29, seed=1), prompt(12, seed=2), prompt(70)]
    sampling = SamplingParams(max_tokens=NUM_NEW, temperature=0.0, ignore_eos=True)
    sequences = [
        make_sequence(tokens, sampling, name=str(number)) for number, tokens in enumerate(prompts)
    ]
    for sequence in sequences:
        engine.add(sequence)
    while engine.busy:
        engine.step()
    pool.check_integrity()
    assert pool.num_free == num_blocks
    assert (engine.num_preemptions > 0) == (num_blocks == 60)
    for tokens, sequence in zip(prompts, sequences, strict=True):
        assert output(sequence) == reference(name).greedy(tokens, NUM_NEW)
