"""The whole engine with interpreted Triton kernels gives the tokens that PyTorch's operations give.

Captured steps are computed anew at every replay, steps are launched ahead, and prompts come while
other sequences decode, so that steps are mixed.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.attention import choice
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.model import transformer
from engine.model.config import ModelConfig
from engine.model.parameters import allocate_parameters, checkpoint_targets
from engine.model.rope_config import DynamicRope
from engine.model.transformer import Transformer
from engine.runners.cache_shape import cache_layout
from engine.runners.captured_step import run_eagerly
from engine.runners.torch_runner import StepSettings, TorchRunner
from tests.cuda.fake_runner import a_config
from tests.engine.driver import make_sequence
from tests.engine.reference import prompt
from wire.sampling import SamplingParams

pytestmark = pytest.mark.usefixtures("interpreted_kernels")

CPU = torch.device("cpu")
NUM_BLOCKS, BLOCK_SIZE = 64, 4
MAX_MODEL_LEN = 512
"""Captured steps split contexts, since their tables have room for more than a few keys."""
FP8 = torch.float8_e4m3fn

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 8,
}
MODELS = {
    "llama": a_config(**SIZES),
    "one KV head of 6": a_config(**{**SIZES, "num_kv_heads": 1, "head_size": 6}),
    "dynamic": a_config(**SIZES, rope=DynamicRope(theta=1e4, factor=2.0, max_position=8)),
    "mistral": a_config(**SIZES, architecture="MistralForCausalLM", windows=(7, 7)),
    "qwen2": a_config(**SIZES, architecture="Qwen2ForCausalLM", qkv_bias=True, windows=(None, 7)),
    "qwen3": a_config(**SIZES, architecture="Qwen3ForCausalLM", qk_norm=True, tied_embeddings=True),
}


def a_runner(
    config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fused: bool,
    graphs: bool,
    cache_dtype: torch.dtype,
) -> TorchRunner:
    """A model of random weights, always the same, on the CPU as if it were a GPU."""
    for module in (transformer, choice):
        monkeypatch.setattr(module, "uses_triton", lambda device, scaled=False: fused)
    monkeypatch.setattr(transformer, "try_native", lambda *_: None)
    parameters = allocate_parameters(config, torch.float32, CPU)
    generator = torch.Generator().manual_seed(0)
    for name, weight in checkpoint_targets(config, parameters).items():
        weight.normal_(std=0.2, generator=generator)
        if "norm" in name:
            weight.add_(1.0)
    runner = TorchRunner(
        config,
        Transformer(config, parameters, CPU),
        cache_layout(config, BLOCK_SIZE, cache_dtype),
        CPU,
        model_hash="",
        max_model_len=MAX_MODEL_LEN,
        settings=StepSettings("torch", "lazy", 4),
    )
    runner.allocate(NUM_BLOCKS + 1)
    if graphs:
        runner.capture_steps(run_eagerly, spare_block=NUM_BLOCKS)
    return runner


def answers(engine: Engine, lengths: tuple[int, ...], num_new: int) -> list[list[int]]:
    """Each prompt comes a step after the one before."""
    sampling = SamplingParams(max_tokens=num_new, temperature=0.0, ignore_eos=True)
    sequences = [make_sequence(prompt(n), sampling, name=str(n)) for n in lengths]
    for sequence in sequences:
        engine.add(sequence)
        engine.step()
    while engine.busy:
        engine.step()
    engine.pool.check_integrity()
    return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]


def check(
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    graphs: bool = True,
    cache_dtype: torch.dtype = torch.float32,
    lengths: tuple[int, ...] = (2, 5, 9),
    num_new: int = 4,
) -> None:
    """The kernels, launched ahead, give what PyTorch's operations give step by step."""
    made = []
    for fused, kind in ((False, Engine), (True, AsyncEngine)):
        runner = a_runner(
            MODELS[model],
            monkeypatch,
            fused=fused,
            graphs=fused and graphs,
            cache_dtype=cache_dtype,
        )
        engine = kind(runner, BlockPool(NUM_BLOCKS), DecodePolicy(chunk_tokens=8))
        made.append(answers(engine, lengths, num_new))
    assert made[0] == made[1]
    varied = {token for answer in made[0] for token in answer}
    assert len(varied) > 2  # else equal answers would say little


@pytest.mark.parametrize("model", MODELS)
def test_captured_and_mixed_steps_give_the_tokens_of_plain_ones(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(model, monkeypatch)


@pytest.mark.parametrize(
    "model", ["llama", *(pytest.param(it, marks=pytest.mark.long) for it in ("mistral", "qwen3"))]
)
def test_caches_of_8_bits_give_the_tokens_of_plain_ones(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(model, monkeypatch, cache_dtype=FP8)


@pytest.mark.parametrize("model", [pytest.param(it, marks=pytest.mark.long) for it in MODELS])
def test_steps_without_graphs_give_the_tokens_of_plain_ones(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(model, monkeypatch, graphs=False)


def test_contexts_of_several_splits_give_the_tokens_of_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check("llama", monkeypatch, lengths=(3, 70), num_new=2)
