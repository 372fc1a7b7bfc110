"""Ranks on GPUs of their own, over NCCL: the tokens of transformers, with graphs and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from tests.engine.checkpoints import Recipe, llama, qwen3, write
from tests.engine.driver import make_sequence, output
from tests.engine.reference import Reference, prompt
from wire.identity import Role
from wire.sampling import SamplingParams
from worker.build import make_engine, make_runner
from worker.config import WorkerConfig
from worker.fitted_config import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
MODELS = {
    "grouped": Recipe(lambda: llama(num_attention_heads=8, num_key_value_heads=4, head_dim=8)),
    "one-kv-head": Recipe(lambda: qwen3(num_key_value_heads=1, tie_word_embeddings=True)),
}


@pytest.mark.parametrize("graphs", ["start", "lazy", "off"])
@pytest.mark.parametrize("name", MODELS)
def test_two_gpus_launched_ahead_give_the_tokens_of_transformers(
    name: str, graphs: str, tmp_path: Path
) -> None:
    directory = write(MODELS[name], tmp_path)
    settings = WorkerConfig(
        model=str(directory),
        tensor_parallel_size=2,
        device="cuda",
        dtype="float32",
        attention="torch",
        graphs=graphs,
        cache_bytes=1 << 20,
        max_sequences=5,
    )
    config = fit(settings, Role.DECODE, None)
    runner = make_runner(config, lambda loaded, total: None)
    try:
        engine, region = make_engine(config, runner, DecodePolicy(chunk_tokens=11))
        assert type(engine) is AsyncEngine
        assert region.device == "cuda:0"
        sampling = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
        lengths = (9, 21, 5, 30)
        sequences = [make_sequence(prompt(n), sampling, name=str(n)) for n in lengths]
        for sequence in sequences:
            engine.add(sequence)
            engine.step()
        while engine.busy:
            engine.step()
        engine.pool.check_integrity()
    finally:
        runner.close()
    reference = Reference(directory)
    for sequence, n in zip(sequences, lengths, strict=True):
        assert output(sequence) == reference.greedy(prompt(n), 24)
