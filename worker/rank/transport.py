"""Makes one rank's transport, staging memory, and endpoint."""

from __future__ import annotations

import ctypes
import mmap

import msgspec

from engine.errors import ConfigError
from engine.runner import CacheRegion, Runner
from kv_transfer.endpoints.rank import RankEndpoint
from kv_transfer.errors import TransferError
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.transport import Transport
from runtime.address import is_loopback
from wire.layout import KvLayout
from worker.config import WorkerConfig
from worker.locked_memory import warn_of_locked_memory

PROCESS_FABRIC = MemoryFabric()
"""Connects the workers of one process that were configured with the memory transport."""

NUM_SCRATCH_BLOCKS = 1
"""Blocks behind the pool's, which only links are measured with."""


def make_rank_endpoint(
    config: WorkerConfig,
    name: str,
    runner: Runner,
    region: CacheRegion,
    num_blocks: int,
    layout: KvLayout,
    rank: int,
) -> RankEndpoint:
    """One rank's endpoint; `layout` is the worker's, `name` the rank's own.

    Raises ConfigError for a transport that is not available, or cannot reach the rank's memory.
    """
    staging = make_staging(config, region)
    transport = make_transport(config, name, region.device)
    try:
        transport.register(region, num_blocks + NUM_SCRATCH_BLOCKS, staging)
    except TransferError as error:
        transport.close()
        raise ConfigError(f"transport {config.transport!r}: {error}") from error
    return RankEndpoint(
        layout,
        rank,
        num_blocks,
        region,
        staging,
        runner.checksum,
        transport,
        max_bytes_in_flight=config.max_bytes_in_flight,
    )


def worker_layout(layout: KvLayout, num_ranks: int) -> KvLayout:
    """The layout of all ranks together, from that of one of them."""
    if num_ranks == 1:
        return layout
    return msgspec.structs.replace(
        layout,
        num_kv_heads=layout.model_kv_heads,
        first_kv_head=0,
        total_kv_heads=None,
        num_ranks=num_ranks,
    )


def make_staging(config: WorkerConfig, pool: CacheRegion) -> CacheRegion:
    """Memory on the pool's device; host memory is committed only when blocks are converted."""
    if pool.device == "cpu":
        memory = mmap.mmap(-1, config.staging_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return CacheRegion(address, config.staging_bytes, pool.device, memory)
    from engine.device.memory import allocate_zeros

    tensor = allocate_zeros(config.staging_bytes, pool.device)
    return CacheRegion(tensor.data_ptr(), config.staging_bytes, pool.device, tensor)


def make_transport(config: WorkerConfig, own_name: str, device: str = "cpu") -> Transport:
    """A transport for a pool on `device`. Raises ConfigError for one that is not available."""
    if config.transport == "memory":
        return MemoryTransport(own_name, PROCESS_FABRIC)
    if config.transport == "nixl":
        warn_of_locked_memory(config)
        return _make_nixl_transport(config, own_name, device)
    if config.transport == "ucx":
        warn_of_locked_memory(config)
        return _make_ucx_transport(config, own_name)
    raise ConfigError(f"transport is {config.transport!r}, must be 'nixl', 'ucx' or 'memory'")


def _make_nixl_transport(config: WorkerConfig, own_name: str, device: str) -> Transport:
    try:
        from kv_transfer.transports.nixl.agent import NixlBackend
        from kv_transfer.transports.nixl.nixl_transport import NixlTransport
    except ImportError as error:  # it says what to install
        raise ConfigError(f"transport 'nixl': {error}") from error

    backend = NixlBackend(config.nixl_backend, config.nixl_backend_options, config.nixl_telemetry)
    try:
        return NixlTransport(own_name, _ucx_env(config), backend, device)
    except TransferError as error:
        raise ConfigError(f"nixl_backend: {error}") from error


def _make_ucx_transport(config: WorkerConfig, own_name: str) -> Transport:
    try:
        from kv_transfer.transports.ucx.ucx_transport import UcxTransport
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"transport 'ucx' needs {error.name}: pip install 'tandem-serve[ucx]'"
        ) from error
    return UcxTransport(own_name, _ucx_env(config))


def _ucx_env(config: WorkerConfig) -> dict[str, str]:
    """UCX's settings. UCX listens on every interface by default; a worker on loopback does not."""
    if is_loopback(config.host):
        return {"UCX_NET_DEVICES": "lo", **config.ucx_env}
    return config.ucx_env
