"""Settings of the workers that parts start: two share one device, so each has a part of it."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.context import Context

GIB = 1 << 30
CPU_CACHE_BYTES = 64 << 20
LOOPBACK = {"UCX_NET_DEVICES": "lo"}


def worker_settings(context: Context, cache_bytes: int, **settings: object) -> dict[str, Any]:
    """Settings of all workers of a cluster; `settings` are further ones of a worker."""
    chosen: dict[str, object] = {
        "device": context.device,
        "attention": context.attention,
        "cache_bytes": cache_bytes if context.on_gpu else CPU_CACHE_BYTES,
        "max_sequences": 32,
        **settings,
    }
    if not context.on_gpu:
        chosen |= {"threads": 1, "ucx_env": LOOPBACK}
    return {f"worker.{key}": value for key, value in chosen.items()}
