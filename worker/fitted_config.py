"""A worker's settings fitted to its device: what they leave open is chosen, by its memory."""

from __future__ import annotations

import msgspec

from wire.identity import Role
from worker.config import WorkerConfig

GIB = 1024**3

CPU_CACHE_FRACTION = 0.2
"""A CPU's memory belongs to others, too."""
GPU_CACHE_FRACTION = 0.85
CPU_CHUNK_TOKENS = 512
GPU_CHUNK_TOKENS = 2048
"""Enough for a GPU to be bound by its arithmetic, and no longer by reading the weights; a decode
worker's next step waits for the chunk, so it takes no more."""
LARGE_GPU_CHUNK_TOKENS = ((64 * GIB, 8192), (32 * GIB, 4096))
"""Prefill workers on GPUs with so much memory compute longer chunks: what a step computes between
layers takes 1 to 2 GB for 8,192 tokens of models of 8 to 70 billion parameters, and a long prompt
pays for the overhead of a quarter of the steps."""
CPU_MIXED_TOKENS = 128
GPU_MIXED_TOKENS = 512
"""Enough to keep a GPU's arithmetic busy; sequences of a model of 8 billion parameters that decode
beside them wait about 10 ms longer for a token."""


class FittedConfig(WorkerConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings in which nothing is None that depends on the device."""

    cache_fraction: float
    chunk_tokens: int
    mixed_chunk_tokens: int


def fit(config: WorkerConfig, role: Role, gpu_bytes: int | None) -> FittedConfig:
    """Choose what `config` leaves open, for a GPU with that much memory, or a CPU for None."""
    on_gpu = gpu_bytes is not None
    fraction, chunk, mixed = config.cache_fraction, config.chunk_tokens, config.mixed_chunk_tokens
    if fraction is None:
        fraction = GPU_CACHE_FRACTION if on_gpu else CPU_CACHE_FRACTION
    if chunk is None:
        chunk = CPU_CHUNK_TOKENS if gpu_bytes is None else _gpu_chunk(role, gpu_bytes)
    if mixed is None:
        most = GPU_MIXED_TOKENS if on_gpu else CPU_MIXED_TOKENS
        mixed = chunk if role is Role.PREFILL else most
    fields = msgspec.structs.asdict(config)
    chosen = {
        "cache_fraction": fraction,
        "chunk_tokens": chunk,
        "mixed_chunk_tokens": min(mixed, chunk),
    }
    return FittedConfig(**{**fields, **chosen})


def _gpu_chunk(role: Role, gpu_bytes: int) -> int:
    if role is Role.PREFILL:
        for least_bytes, chunk in LARGE_GPU_CHUNK_TOKENS:
            if gpu_bytes >= least_bytes:
                return chunk
    return GPU_CHUNK_TOKENS
