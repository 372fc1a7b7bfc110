"""Makes a worker's parts from its configuration: runner, transport, engine."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from engine.ahead import AheadEngine
from engine.arithmetic import ArithmeticRunner
from engine.blocks import BlockPool
from engine.engine import Engine
from engine.errors import ConfigError
from engine.grammar.grammars import Grammars
from engine.model.config import read_config
from engine.policy import Policy
from engine.runner import CacheRegion, Runner
from grammar.vocabulary import read_vocabulary
from kv_transfer.memory_link import MemoryFabric, MemoryLink
from kv_transfer.transport import TransferError, Transport
from runtime.address import is_loopback
from worker.config import RunnerKind, WorkerConfig
from worker.host_memory import make_host_tier
from worker.locked_memory import warn_of_locked_memory
from worker.ranks.settings import check_ranks

PROCESS_FABRIC = MemoryFabric()
"""Connects the workers of one process that were configured with the memory transport."""

NUM_SCRATCH_BLOCKS = 1
"""Behind the pool's blocks: what links are measured with, and nothing else."""

SPIN_COUNT = "20000"
"""Turns that an OpenMP thread waits for work before it sleeps; read when torch is loaded."""

Progress = Callable[[int, int], None]


def make_runner(
    config: WorkerConfig,
    progress: Progress,
    on_rank_lost: Callable[[Exception], None] = lambda error: None,
) -> Runner:
    """Loads the model; `progress(loaded_bytes, total_bytes)` is called on the way.

    `on_rank_lost(error)` is told, in any thread, when another rank of the worker is gone. Raises
    CheckpointError and ConfigError, and RankLost.
    """
    check_ranks(config)
    if config.runner is RunnerKind.ARITHMETIC:
        return ArithmeticRunner(
            stamp=config.stamp,
            block_size=config.block_size,
            max_model_len=config.max_model_len or 16384,
            width=config.width,
            num_layers=config.num_layers,
            step_s=config.step_s,
        )
    if config.most_threads is not None:
        # Threads that spin for long look like others' work to whoever counts idle cores.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    # What loads torch is imported here, for it costs a second that others need not pay.
    if config.tensor_parallel_size > 1:
        from worker.ranks.lead_runner import LeadRunner

        return LeadRunner.start(config, progress, on_rank_lost)
    from worker.load import load_runner

    return load_runner(config, progress)


def make_engine(config: WorkerConfig, runner: Runner, policy: Policy) -> tuple[Engine, CacheRegion]:
    """Raises ConfigError; the runner is closed then."""
    try:
        num_blocks = runner.fit_num_blocks(config.cache_bytes, config.cache_fraction)
        region = runner.allocate(num_blocks + NUM_SCRATCH_BLOCKS)
        pool = BlockPool(num_blocks)
        tier = make_host_tier(config.host_cache_bytes, runner.layout, pool, region)
        kind = AheadEngine if runner.runs_ahead else Engine
        return kind(runner, pool, policy, make_grammars(config, runner), tier), region
    except BaseException:
        runner.close()
        raise


def make_grammars(config: WorkerConfig, runner: Runner) -> Grammars | None:
    """None where the model's directory has no tokenizer.json: then no request can have a grammar.

    The tokenizer is read when the first one comes.
    """
    directory = Path(config.model)
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        return None
    ends = runner.eos_token_ids or frozenset(read_config(directory).eos_token_ids)
    return Grammars(lambda: read_vocabulary(tokenizer_file, runner.vocab_size, ends), ends)


def make_staging(config: WorkerConfig, pool: CacheRegion) -> CacheRegion:
    """Memory on the pool's device; on the host it is committed only when blocks are converted."""
    if pool.device == "cpu":
        memory = mmap.mmap(-1, config.staging_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return CacheRegion(address, config.staging_bytes, pool.device, memory)
    from engine.memory import allocate_zeros

    tensor = allocate_zeros(config.staging_bytes, pool.device)
    return CacheRegion(tensor.data_ptr(), config.staging_bytes, pool.device, tensor)


def make_transport(config: WorkerConfig, own_name: str) -> Transport:
    """Raises ConfigError for a transport that is not to be had."""
    if config.transport == "memory":
        return MemoryLink(own_name, PROCESS_FABRIC)
    if config.transport == "nixl":
        warn_of_locked_memory(config)
        return _make_nixl_link(config, own_name)
    if config.transport == "ucx":
        warn_of_locked_memory(config)
        return _make_ucx_link(config, own_name)
    raise ConfigError(f"transport is {config.transport!r}, must be 'nixl', 'ucx' or 'memory'")


def _make_nixl_link(config: WorkerConfig, own_name: str) -> Transport:
    from kv_transfer.nixl_agent import NixlBackend  # loads NIXL, which others need not have
    from kv_transfer.nixl_link import NixlLink

    backend = NixlBackend(config.nixl_backend, config.nixl_backend_options, config.nixl_telemetry)
    try:
        return NixlLink(own_name, _ucx_env(config), backend)
    except TransferError as error:
        raise ConfigError(f"nixl_backend: {error}") from error


def _make_ucx_link(config: WorkerConfig, own_name: str) -> Transport:
    try:
        from kv_transfer.ucx_link import UcxLink  # loads another UCX, which is an optional extra
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"transport 'ucx' needs {error.name}: pip install 'tandem-serve[ucx]'"
        ) from error
    return UcxLink(own_name, _ucx_env(config))


def _ucx_env(config: WorkerConfig) -> dict[str, str]:
    """UCX listens on every interface unless told; a worker on loopback stays there."""
    if is_loopback(config.host):
        return {"UCX_NET_DEVICES": "lo", **config.ucx_env}
    return config.ucx_env
