"""A worker's settings, checked for and divided among its ranks."""

from __future__ import annotations

import os

from engine.errors import ConfigError
from worker.config import RunnerKind, WorkerConfig


def check_ranks(config: WorkerConfig) -> None:
    """Raises ConfigError for settings that several ranks cannot have. (Limits of a model are
    checked when it is loaded.)"""
    size = config.tensor_parallel_size
    if size < 1:
        raise ConfigError(f"tensor_parallel_size is {size}, must be at least 1")
    for name in ("rank_silence_s", "step_timeout_s"):
        if (seconds := getattr(config, name)) <= 0:
            raise ConfigError(f"{name} is {seconds:g}, must be more than 0")
    if size == 1:
        return
    refused = {
        'runner "arithmetic" computes by hand': config.runner is RunnerKind.ARITHMETIC,
        "deterministic needs compiled kernels, which compute whole models": config.deterministic,
        "host_cache_bytes holds whole blocks, of which each rank has a part": (
            config.host_cache_bytes > 0
        ),
    }
    for why, holds in refused.items():
        if holds:
            raise ConfigError(f"tensor_parallel_size is {size}, must be 1: {why}")


def rank_threads(config: WorkerConfig) -> int | None:
    """Each rank's equal share of the worker's CPU threads; None for torch's default."""
    size = config.tensor_parallel_size
    if size == 1:
        return config.threads
    return max(1, (config.threads or len(os.sched_getaffinity(0))) // size)
