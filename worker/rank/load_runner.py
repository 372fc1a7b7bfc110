"""Loads a worker's model, or one rank's part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from engine.device.collective import Collective
from engine.device.device import choose_device
from engine.errors import ConfigError
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from worker.config import WorkerConfig
from worker.rank.rank_settings import rank_threads


def load_runner(
    config: WorkerConfig,
    progress: Callable[[int, int], None],
    collective: Collective | None = None,
) -> TorchRunner:
    """The runner of one rank; `collective` is None for a worker of one. Raises CheckpointError and
    ConfigError."""
    device = config.device
    if collective is not None:
        device = rank_device(config.device, collective.rank, collective.size)
    return load_torch_runner(
        Path(config.model),
        device=device,
        dtype=config.dtype,
        cache_dtype=config.cache_dtype,
        block_size=config.block_size,
        max_model_len=config.max_model_len,
        threads=rank_threads(config),
        most_threads=config.most_threads,
        deterministic=config.deterministic,
        attention=config.attention,
        graphs=config.graphs,
        max_sequences=config.max_sequences,
        progress=progress,
        collective=collective,
    )


def rank_device(name: str, rank: int, size: int) -> str:
    """Rank r computes on the r-th visible GPU, or all compute on the CPU. Raises ConfigError."""
    chosen = choose_device(name)
    if chosen.type == "cpu":
        return "cpu"
    if chosen.index:
        raise ConfigError(
            f'device "{name}" with tensor_parallel_size {size}: ranks take the first {size} '
            'visible GPUs; write "cuda", and choose among them with CUDA_VISIBLE_DEVICES'
        )
    if (count := torch.cuda.device_count()) < size:
        raise ConfigError(f"tensor_parallel_size is {size}, but {count} GPUs are visible")
    return f"cuda:{rank}"
