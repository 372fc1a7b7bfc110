"""A model that is divided among ranks gives the tokens of transformers; each reads its part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.errors import ConfigError
from engine.model.config import read_config
from engine.model.model_part import kv_heads_of, model_part
from engine.runner import Slice
from engine.runners.captured_step import run_eagerly
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from tests.engine.checkpoints import RECIPES
from tests.engine.driver import decode, give_blocks, make_sequence, output, step
from tests.engine.reference import Reference, prompt
from tests.engine.teams import Team, a_team, connected
from wire.sampling import SamplingParams

Checkpoints = Callable[[str], Path]
References = Callable[[str], Reference]
Teams = Callable[[str, int], Team]
NUM_NEW = 24
OF_FOUR = ("llama-mha", "llama-mqa", "llama-biased", "llama-tied", "qwen2-windows", "qwen3")
READ = ("llama", "llama-biased", "llama-bf16", "llama-mqa", "llama-shards", "llama-tied", "qwen3")


@pytest.fixture(scope="module")
def team(checkpoint: Checkpoints) -> Iterator[Teams]:
    with ExitStack() as stack:
        yield cache(lambda name, size: stack.enter_context(a_team(checkpoint(name), size)))


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 2) for name in RECIPES), *((name, 4) for name in OF_FOUR)]
)
def test_ranks_together_continue_as_transformers_does(
    name: str, size: int, team: Teams, reference: References
) -> None:
    pool = BlockPool(128)
    prompts = (prompt(3), prompt(70), prompt(41) + prompt(9, seed=1))
    sequences = [make_sequence(tokens) for tokens in prompts]
    for sequence in sequences:
        give_blocks(sequence, pool, len(sequence.tokens) + NUM_NEW)
    ranks = team(name, size)
    step(ranks, [(sequences[0], 3), (sequences[1], 29)])
    step(ranks, [(sequences[2], 7), (sequences[1], 17), (sequences[0], 1)])
    decode(ranks, sequences, NUM_NEW)
    for sequence, tokens in zip(sequences, prompts, strict=True):
        assert output(sequence) == reference(name).greedy(tokens, NUM_NEW)


@pytest.mark.parametrize("size", [2, 4])
def test_a_block_s_heads_lie_on_their_ranks(
    size: int, team: Teams, checkpoint: Checkpoints
) -> None:
    """Together the ranks hold what one rank holds alone."""
    whole = load_torch_runner(checkpoint("llama-mha"), device="cpu", block_size=4)
    whole.allocate(8)
    for runner in (whole, team("llama-mha", size)):
        sequence = make_sequence(prompt(9))
        sequence.blocks = [5, 2, 7]
        step(runner, [(sequence, 9)])
    expected = blocks_of(whole)[[5, 2, 7]]
    parts = [blocks_of(runner)[[5, 2, 7]] for runner in team("llama-mha", size).runners]
    torch.testing.assert_close(torch.cat(parts, dim=3), expected, atol=1e-5, rtol=1e-5)


def blocks_of(runner: TorchRunner) -> torch.Tensor:
    """[blocks, layers, 2, kv_heads, slots, head_size]"""
    layout = runner.layout
    shape = layout.num_layers, 2, layout.num_kv_heads, layout.block_size, layout.head_size
    return runner.cache.memory.view(torch.float32).view(-1, *shape)


def test_ranks_of_one_head_hold_the_same(team: Teams) -> None:
    ranks = team("llama", 4)
    sequence = make_sequence(prompt(9))
    sequence.blocks = [5, 2, 7]
    step(ranks, [(sequence, 9)])
    first, second, third, fourth = (runner.cache.memory for runner in ranks.runners)
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(second, third)


def test_layouts_say_which_heads_a_rank_holds(team: Teams) -> None:
    found = [
        (runner.layout.heads, runner.layout.model_kv_heads)
        for runner in team("llama", 4).runners  # of two KV heads
    ]
    assert found == [(range(1), 2), (range(1), 2), (range(1, 2), 2), (range(1, 2), 2)]
    assert [kv_heads_of(8, rank, 4) for rank in range(4)] == [
        range(begin, begin + 2) for begin in (0, 2, 4, 6)
    ]


def test_models_are_the_same_whatever_the_number_of_ranks(
    team: Teams, checkpoint: Checkpoints
) -> None:
    whole = load_torch_runner(checkpoint("qwen3"), device="cpu")
    ranks = [runner for size in (2, 4) for runner in team("qwen3", size).runners]
    assert {runner.model_hash for runner in ranks} == {whole.model_hash}
    assert {runner.vocab_size for runner in ranks} == {whole.vocab_size}


def test_seeded_draws_are_those_of_one_rank(team: Teams, checkpoint: Checkpoints) -> None:
    sampling = SamplingParams(max_tokens=99, seed=7, temperature=1.5, top_p=0.95)
    whole = load_torch_runner(checkpoint("qwen2"), device="cpu", block_size=4)
    whole.allocate(128)
    made = []
    for runner in (whole, team("qwen2", 2)):
        sequence = make_sequence(prompt(13), sampling)
        give_blocks(sequence, BlockPool(128), 60)
        decode(runner, [sequence], 40)
        made.append(output(sequence))
    assert made[0] == made[1]


@pytest.mark.parametrize("records", [False, True])
def test_steps_launched_ahead_feed_each_other_on_every_rank(
    records: bool, checkpoint: Checkpoints, reference: References
) -> None:
    """As on a GPU: no rank's host knows what the step before draws."""
    with a_team(checkpoint("llama"), 2, 97, max_sequences=6) as ranks:
        for runner in ranks.runners:
            runner.runs_ahead = True
            if records:
                runner.capture_steps(run_eagerly, spare_block=96)
        engine = AsyncEngine(ranks, BlockPool(96), DecodePolicy(chunk_tokens=11))
        lengths = (9, 21, 5, 30)
        sequences = [make_sequence(prompt(n), greedy(20), name=str(n)) for n in lengths]
        for sequence in sequences:
            engine.add(sequence)
            engine.step()
        while engine.busy:
            engine.step()
        engine.pool.check_integrity()
    for sequence, n in zip(sequences, lengths, strict=True):
        assert output(sequence) == reference("llama").greedy(prompt(n), 20)


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


def test_a_layer_is_everywhere_when_rank_0_says_so(team: Teams) -> None:
    ranks, sequence = team("llama-mha", 2), make_sequence(prompt(9))
    sequence.blocks = [5, 2, 7]
    seen: list[list[torch.Tensor]] = []
    ranks.run(
        [Slice(sequence, 0, 9)],
        lambda number: seen.append(
            [blocks_of(runner)[[5, 2, 7], number - 1].clone() for runner in ranks.runners]
        ),
    )
    after = [blocks_of(runner)[[5, 2, 7]] for runner in ranks.runners]
    for layer, rank in itertools.product(range(2), range(2)):
        assert torch.equal(seen[layer][rank], after[rank][:, layer])


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_reads_its_part_of_every_tensor_and_no_more(
    name: str, size: int, checkpoint: Checkpoints
) -> None:
    directory = checkpoint(name)
    config, stored = read_config(directory), stored_tensors(directory)
    for rank, collective in enumerate(connected(size)):
        part = model_part(config, rank, size)
        loaded: list[tuple[int, int]] = []

        def note(*progress: int, loaded: list = loaded) -> None:
            loaded.append(progress)

        before = bytes_read()
        runner = load_torch_runner(directory, device="cpu", collective=collective, progress=note)
        read = bytes_read() - before
        expected = sum(
            num_bytes_of(tensor, part.cut(key))
            for key, tensor in stored.items()
            if part.adds_biases or not key.endswith(("o_proj.bias", "down_proj.bias"))
        )
        assert loaded[-1] == (expected, expected)
        others = sum(file.stat().st_size for file in directory.glob("*.json"))
        headers_and_samples = 1100 * 2 * len(stored) + 4 * others
        assert expected <= read <= expected + headers_and_samples
        assert runner.layout.heads == part.kv_heads


def stored_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {
        key: tensor
        for file in directory.glob("*.safetensors")
        for key, tensor in load_file(file).items()
    }


def num_bytes_of(tensor: torch.Tensor, cut: object) -> int:
    if cut is None:
        return tensor.nbytes
    return tensor.nbytes * len(cut.span) // cut.total


def bytes_read() -> int:
    """By this process, from files and all else. (Linux)"""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parts_are_what_is_stored_in_any_dtype(dtype: str, checkpoint: Checkpoints) -> None:
    directory = checkpoint("llama-bf16")
    stored = stored_tensors(directory)
    parts = [
        load_torch_runner(directory, device="cpu", dtype=dtype, collective=each)._model._parameters
        for each in connected(2)
    ]
    layers = [part.layers[1] for part in parts]
    for name, columns in (
        ("self_attn.o_proj", [layer.output for layer in layers]),
        ("mlp.down_proj", [layer.feed_forward.down for layer in layers]),
    ):
        whole = stored[f"model.layers.1.{name}.weight"].to(getattr(torch, dtype))
        found = torch.cat([linear.weight for linear in columns], dim=1)
        assert torch.equal(found, whole)
    embedding = stored["model.embed_tokens.weight"].to(getattr(torch, dtype))
    found = torch.cat([part.embedding for part in parts])
    assert torch.equal(found[: len(embedding)], embedding)
    assert not found[len(embedding) :].any()


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("llama", 3, "tensor_parallel_size is 3, must be a divisor of this model's 4 attention"),
        ("llama", 0, "tensor_parallel_size is 0, must be at least 1"),
        ("llama-inner", 4, "divisor of this model's 50 columns of the feed-forward"),
        ("llama-kv", 4, "a divisor or a multiple of this model's 6 KV heads"),
    ],
)
def test_ranks_that_a_model_cannot_be_divided_among_are_refused(
    name: str, size: int, reason: str, checkpoint: Checkpoints
) -> None:
    config = read_config(checkpoint("llama"))
    changes = {
        "llama": {},
        "llama-inner": {"intermediate_size": 50},
        "llama-kv": {"num_heads": 12, "num_kv_heads": 6},
    }
    with pytest.raises(ConfigError, match=reason):
        model_part(msgspec.structs.replace(config, **changes[name]), 0, size)
