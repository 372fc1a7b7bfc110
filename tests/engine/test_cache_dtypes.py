"""Caches of fewer bits than what is computed with: nearly the same answers, recorded or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.attention.backend import SequenceRows
from engine.attention.scaled_cache import ScaledCache
from engine.attention.tables import TorchTables
from engine.attention.torch_backend import TorchBackend
from engine.cache.block_pool import BlockPool
from engine.model.config import read_config
from engine.model.parameters import allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import find_weights, load_weights
from engine.runners.cache_shape import cache_layout, shaped
from engine.runners.captured_step import run_eagerly
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import StepSettings, TorchRunner
from tests.engine.driver import give_blocks, make_sequence, step
from tests.engine.reference import prompt
from wire.layout import KvLayout
from wire.sampling import SamplingParams

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
ALL_LOGPROBS = SamplingParams(max_tokens=99, temperature=0.0, ignore_eos=True, logprobs=101)


def probabilities(runner: TorchRunner, tokens: list[int]) -> torch.Tensor:
    """Of every next token after prompts in two chunks, and then of given tokens one by one."""
    sequence = make_sequence(tokens, ALL_LOGPROBS, num_prompt=20)
    give_blocks(sequence, BlockPool(24), len(tokens))
    del sequence.tokens[20:]
    step(runner, [(sequence, 13)])
    rows = []
    for token in tokens[20:]:
        [sampled] = step(runner, [(sequence, sequence.num_uncomputed)])
        assert sampled is not None
        assert sampled.logprob is not None
        found = dict(zip(sampled.logprob.top_ids, sampled.logprob.top_logprobs, strict=True))
        rows.append([math.exp(found[id]) for id in range(101)])
        sequence.tokens[-1] = token
    return torch.tensor(rows)


def a_runner(directory: Path, cache: torch.dtype) -> TorchRunner:
    """Of PyTorch's operations, computing in float32."""
    config = read_config(directory)
    parameters = allocate_parameters(config, torch.float32, CPU)
    load_weights(find_weights(directory), checkpoint_targets(config, parameters), None)
    model = Transformer(config, parameters, CPU, native=False)
    layout = cache_layout(config, 4, cache)
    settings = StepSettings(max_sequences=4, graphs="lazy")
    runner = TorchRunner(
        config, model, layout, CPU, model_hash="", max_model_len=96, settings=settings
    )
    runner.allocate(25)
    return runner


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2-windows"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (FP8, 0.2)])
def test_a_narrow_cache_computes_about_the_same(
    dtype: torch.dtype,
    tolerance: float,
    name: str,
    graphs: bool,
    checkpoint: Callable[[str], Path],
) -> None:
    tokens = prompt(60)
    expected = probabilities(a_runner(checkpoint(name), torch.float32), tokens)
    narrow = a_runner(checkpoint(name), dtype)
    if graphs:
        narrow.capture_steps(run_eagerly, spare_block=24)
    found = probabilities(narrow, tokens)
    assert 0 < (found - expected).abs().max() < tolerance
    assert narrow.layout.dtype == str(dtype).removeprefix("torch.")


def test_a_loaded_model_takes_a_cache_of_eight_bits(checkpoint: Callable[[str], Path]) -> None:
    loaded = load_torch_runner(
        checkpoint("llama"), device="cpu", cache_dtype="float8_e4m3fn", block_size=4
    )
    region = loaded.allocate(24)
    assert region.num_bytes == 24 * loaded.layout.block_bytes
    plain = a_runner(checkpoint("llama"), FP8)
    tokens = prompt(40)
    assert torch.equal(probabilities(loaded, tokens), probabilities(plain, tokens))


def test_scales_of_another_worker_s_blocks_are_kept_until_a_block_begins_anew() -> None:
    torch.manual_seed(0)
    layout = KvLayout(
        num_layers=1, num_kv_heads=2, head_size=8, block_size=4, dtype="float8_e4m3fn"
    )
    memory = torch.zeros(6 * layout.block_bytes, dtype=torch.uint8)
    values, scales = shaped(memory, layout)
    assert scales is not None
    wide = torch.zeros(values.shape)
    span = SequenceRows(0, 6, (4, 1))
    scales[4], scales[1] = 7.0, 0.25  # of former owners
    key, value = torch.randn(2, 12, 2, 8)
    query = torch.randn(12, 4, 8)
    narrow, plain = (
        TorchBackend(values, (None,), torch.float32, scales),
        TorchBackend(wide, (None,)),
    )
    for backend in (narrow, plain):
        backend.prepare([span]).attend(0, query[:6], key[:6], value[:6])
    assert scales[[4, 1]].eq(1.0).all()

    # The same content, as somebody stores it whose scale is 1/64.
    stored = values[1].float() * 64
    values[1] = stored.clamp(-448, 448).to(FP8)
    scales[1] = 1 / 64
    tables = TorchTables(values, (None,), torch.float32, scales)
    columns = torch.tensor([[4], [1], [2]], dtype=torch.int32)
    for place in range(6, 10):
        token = slice(place, place + 1)
        made = tables.batch(columns, torch.tensor([place]))
        ours = made.attend(0, query[token], key[token], value[token])
        expected = plain.prepare([SequenceRows(place, 1, (4, 1, 2))])
        theirs = expected.attend(0, query[token], key[token], value[token])
        assert (ours - theirs).abs().max() < 0.15
    assert scales[1].eq(1 / 64).all()
    assert scales[2].eq(1.0).all()


def test_numbers_beyond_the_largest_become_the_largest() -> None:
    values = torch.zeros(2, 1, 2, 1, 4, 8).to(FP8)
    cache = ScaledCache(values, torch.ones(2, 1, 2, 1), torch.float32)
    place = torch.tensor([1]), torch.tensor([2])
    cache.write(0, *place, torch.full((1, 1, 8), 1e6), torch.full((1, 1, 8), -1e6))
    keys, rest = cache.gather(0, cache.gather_index(torch.tensor([[1]])))
    assert keys[0, 0, 2].eq(448).all()
    assert rest[0, 0, 2].eq(-448).all()
