"""Loads a worker's model, or one rank's part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.device.collective import Collective
from engine.device.device import choose_device
from engine.errors import ConfigError
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from kv_transfer.device_thread import bind_thread
from worker.config import WorkerConfig
from worker.fitted_config import FittedConfig
from worker.rank.rank_settings import rank_threads


def load_runner(
    config: FittedConfig,
    progress: Callable[[int, int], None],
    collective: Collective | None = None,
) -> TorchRunner:
    """The runner of one rank; `collective` is None for a worker of one. Binds the calling thread to
    the rank's device. Raises CheckpointError and ConfigError."""
    device = config.device
    if collective is not None:
        device = rank_device(config.device, collective.rank, collective.size)
    bind_thread(str(choose_device(device)))
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
        chunk_tokens=config.chunk_tokens,
        progress=progress,
        collective=collective,
    )


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU's name and the size of its memory."""

    name: str
    num_bytes: int


def gpu_memory(config: WorkerConfig) -> GpuMemory | None:
    """The GPU that the first rank will compute on; None for a CPU. Raises ConfigError."""
    size = config.tensor_parallel_size
    device = choose_device(config.device if size == 1 else rank_device(config.device, 0, size))
    if device.type == "cpu":
        return None
    properties = torch.cuda.get_device_properties(device)
    return GpuMemory(properties.name, properties.total_memory)


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
