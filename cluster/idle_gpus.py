"""Warns of pools that compute on the CPU although there are GPUs."""

from __future__ import annotations

from pathlib import Path

from cluster.config import ClusterConfig
from cluster.pools import PoolConfig
from worker.config import RunnerKind

TINY_BYTES = 256 * 1024 * 1024
"""Weights up to this size are for trying things out, and quick on a CPU."""


def idle_gpu_warnings(config: ClusterConfig, num_gpus: int, where: str) -> list[str]:
    """At most one warning; `num_gpus` are there, and `where` begins the sentence that says so."""
    pools = [pool for pool in config.pools if _falls_back_to_cpu(pool)]
    if num_gpus == 0 or not pools:
        return []
    names = " and ".join(pool.name for pool in pools)
    keys = " and ".join(f"{pool.keys}.num_gpus" for pool in pools)
    return [
        f"{names} will compute on the CPU, since {keys} is 0; {where} {num_gpus} GPUs. Set it to 1 "
        'for each rank, or worker.device to "cpu" if that is meant'
    ]


def _falls_back_to_cpu(pool: PoolConfig) -> bool:
    """Whether nobody has said what a pool's model, unless it is tiny, computes on."""
    worker = pool.worker
    unsaid = pool.num_gpus == 0 and worker.device == "auto"
    return unsaid and worker.runner is RunnerKind.TORCH and _num_bytes(worker.model) > TINY_BYTES


def _num_bytes(directory: str) -> int:
    return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))
