"""Makes the tier of host memory behind a worker's KV cache."""

from __future__ import annotations

import time

from engine.blocks import BlockPool
from engine.copier import BlockCopier, HostCopier, allocate_host
from engine.errors import ConfigError
from engine.host_tier import HostTier
from engine.runner import CacheRegion
from wire.layout import KvLayout


def make_host_tier(
    host_cache_bytes: int, layout: KvLayout, pool: BlockPool, cache: CacheRegion
) -> HostTier | None:
    """None for 0 bytes; ConfigError for too few, or more than there are."""
    if host_cache_bytes == 0:
        return None
    num_blocks = host_cache_bytes // layout.block_bytes
    if num_blocks < 1:
        raise ConfigError(
            f"host_cache_bytes is {host_cache_bytes}, less than one block of "
            f"{layout.block_bytes} bytes; 0 does without"
        )
    try:
        copier = _make_copier(num_blocks, layout.block_bytes, cache)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"host_cache_bytes is {host_cache_bytes}, which this machine does not give: {error}"
        ) from error
    return HostTier(pool, num_blocks, layout, copier, time.monotonic)


def _make_copier(num_blocks: int, block_bytes: int, cache: CacheRegion) -> BlockCopier:
    if cache.device != "cpu":
        from torch import Tensor

        from engine.cuda_copier import CudaCopier  # loads torch, which others need not have

        assert isinstance(cache.keepalive, Tensor)
        return CudaCopier(cache.keepalive, num_blocks, block_bytes)
    copier = HostCopier(cache, allocate_host(num_blocks * block_bytes), block_bytes)
    copier.start_thread()
    return copier
