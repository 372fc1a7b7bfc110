"""Makes a worker's parts from its configuration: runner, engine, endpoint."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.async_engine import AsyncEngine
from engine.cache.block_copier import BlockCopier, HostCopier, allocate_host
from engine.cache.block_pool import BlockPool
from engine.cache.host_tier import HostTier
from engine.engine import Engine
from engine.errors import ConfigError
from engine.grammar.grammars import Grammars
from engine.model.config import read_config
from engine.runner import CacheRegion, Runner
from engine.runners.arithmetic_runner import ArithmeticRunner
from engine.schedule.policy import Policy
from engine.schedule.role_policy import RolePolicy
from engine.schedule.step_times import StepTimes
from grammar.vocabulary import read_vocabulary
from kv_transfer.endpoints.all_ranks import AllRanksEndpoint
from kv_transfer.endpoints.endpoint import Endpoint
from kv_transfer.endpoints.remote_rank import RemoteRank
from kv_transfer.endpoints.remote_rank_messages import RankPairFailed
from runtime.tokenizer_hash import tokenizer_hash
from wire.identity import ProcessRef, Role
from wire.layout import KvLayout
from wire.policy_traits import PolicyTraits
from worker.config import RunnerKind, WorkerConfig
from worker.fitted_config import GIB, FittedConfig, fit
from worker.rank.rank_settings import check_ranks
from worker.rank.this_process import this_process
from worker.rank.transport import NUM_SCRATCH_BLOCKS, make_rank_endpoint, worker_layout
from worker.ranks.team import Team

if TYPE_CHECKING:
    from worker.rank.load_runner import GpuMemory

log = logging.getLogger("tandem.start")

SPIN_COUNT = "20000"
"""Iterations for which an OpenMP thread spins before it sleeps; read when torch is loaded."""

Progress = Callable[[int, int], None]
MakePolicy = Callable[[FittedConfig, StepTimes], Policy]
MakePolicies = Mapping[Role, MakePolicy]
"""A worker has the policy of each role, since its role may change while it serves."""


class Machine(msgspec.Struct, frozen=True):
    """What a worker computes with, and what it exchanges blocks with."""

    engine: Engine
    endpoint: Endpoint
    device: str
    """The device of the engine's cache, as in kv_transfer.layout.region.CacheRegion."""
    device_kind: str
    """See wire.messages.WorkerCard.device."""
    content: str
    """See wire.messages.WorkerCard."""
    tokenizer: str | None
    """See runtime.tokenizer_hash."""
    policies: dict[Role, PolicyTraits]
    """Rules of the scheduling policy in each role."""


def make_machine(
    config: WorkerConfig,
    name: str,
    role: Role,
    make_policies: MakePolicies,
    progress: Progress,
    on_rank_lost: Callable[[Exception], None],
) -> Machine:
    """Load the model, and make everything around it; takes long. Raises EngineError.

    `name` is what the transport calls this worker; for the callbacks see make_runner.
    """
    gpu = _gpu(config)
    fitted = _fit_roles(config, role, gpu)
    times = StepTimes()
    policies = {each: make(fitted[each], times) for each, make in make_policies.items()}
    # Memory is set aside for the largest step of either role.
    chunk_tokens = max(each.chunk_tokens for each in fitted.values())
    largest = msgspec.structs.replace(fitted[role], chunk_tokens=chunk_tokens)
    runner = make_runner(largest, progress, on_rank_lost)
    engine, region = make_engine(fitted[role], runner, RolePolicy(policies, role))
    try:
        endpoint = make_endpoint(config, name, runner, region, engine.pool.num_blocks)
    except BaseException:
        runner.close()  # its other ranks are processes
        raise
    content = f"{runner.model_hash} checked by {runner.checksum_kind}"
    traits = {each: policy.traits for each, policy in policies.items()}
    tokenizer = tokenizer_hash(Path(config.model))
    kind = "cpu" if gpu is None else gpu.name
    return Machine(engine, endpoint, region.device, kind, content, tokenizer, traits)


def _gpu(config: WorkerConfig) -> GpuMemory | None:
    """The GPU that the first rank will compute on; None for a CPU. Raises ConfigError."""
    if config.runner is RunnerKind.ARITHMETIC:
        return None
    if config.most_threads is not None:
        # Threads that spin for long count as others' work where idle cores are counted.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    # Imported here since torch takes a second to load, which the arithmetic runner need not pay.
    from worker.rank.load_runner import gpu_memory

    return gpu_memory(config)


def _fit_roles(
    config: WorkerConfig, begins_as: Role, gpu: GpuMemory | None
) -> dict[Role, FittedConfig]:
    """Choose what the settings leave open, for each role, and say so where it is a GPU's."""
    fitted = {role: fit(config, role, None if gpu is None else gpu.num_bytes) for role in Role}
    if gpu is not None:
        chosen = fitted[begins_as]
        cache = f"cache_fraction {chosen.cache_fraction:g}"
        log.info(
            "computes on %s with %.0f GiB: %s, chunk_tokens %d, mixed_chunk_tokens %d",
            *(gpu.name, gpu.num_bytes / GIB),
            cache if chosen.cache_bytes is None else f"cache_bytes {chosen.cache_bytes}",
            *(chosen.chunk_tokens, chosen.mixed_chunk_tokens),
        )
    return fitted


def make_runner(
    config: FittedConfig,
    progress: Progress,
    on_rank_lost: Callable[[Exception], None] = lambda error: None,
) -> Runner:
    """Load the model; `progress(loaded_bytes, total_bytes)` is called on the way.

    `on_rank_lost(error)` is called, in any thread, when another rank of the worker has ended.
    Raises CheckpointError, ConfigError and RankLost.
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
            costs=config.step_costs,
        )
    if config.tensor_parallel_size > 1:
        from worker.ranks.lead_runner import LeadRunner

        return LeadRunner.start(config, progress, on_rank_lost)
    from worker.rank.load_runner import load_runner

    return load_runner(config, progress)


def make_engine(config: FittedConfig, runner: Runner, policy: Policy) -> tuple[Engine, CacheRegion]:
    """The engine, and the memory of its KV cache. Raises ConfigError; the runner is closed then."""
    try:
        num_blocks = runner.fit_num_blocks(config.cache_bytes, config.cache_fraction)
        region = runner.allocate(num_blocks + NUM_SCRATCH_BLOCKS)
        pool = BlockPool(num_blocks)
        tier = make_host_tier(config.host_cache_bytes, runner.layout, pool, region)
        kind = AsyncEngine if runner.runs_ahead else Engine
        return kind(runner, pool, policy, make_grammars(config, runner), tier), region
    except BaseException:
        runner.close()
        raise


def make_grammars(config: WorkerConfig, runner: Runner) -> Grammars | None:
    """None for a model directory without tokenizer.json: then no request can have a grammar.

    The tokenizer is read for the first request that has one.
    """
    directory = Path(config.model)
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        return None
    ends = runner.eos_token_ids or frozenset(read_config(directory).eos_token_ids)
    return Grammars(lambda: read_vocabulary(tokenizer_file, runner.vocab_size, ends), ends)


def make_endpoint(
    config: WorkerConfig, name: str, runner: Runner, region: CacheRegion, num_blocks: int
) -> Endpoint:
    """`num_blocks` are those in use. Raises ConfigError for a transport that is not available."""
    team = team_of(runner)
    if team is not None and config.transport == "memory":
        raise ConfigError(
            f"transport is 'memory', which stays within one process; with tensor_parallel_size "
            f"{team.size} it must be 'nixl' or 'ucx'"
        )
    layout = worker_layout(runner.layout, 1 if team is None else team.size)
    own = make_rank_endpoint(config, name, runner, region, num_blocks, layout, 0)
    return own if team is None else AllRanksEndpoint(own, _others(team))


def team_of(runner: Runner) -> Team | None:
    """The other ranks of a worker; None for a single one."""
    team = getattr(runner, "team", None)
    return team if isinstance(team, Team) else None


def processes_of(runner: Runner) -> tuple[ProcessRef, ...]:
    """The processes of all ranks, this one first."""
    own, team = this_process(), team_of(runner)
    others = () if team is None else team.processes
    return (own, *(ProcessRef(own.host, other.pid) for other in others))


def _others(team: Team) -> list[RemoteRank]:
    ranks = {process.rank: RemoteRank(process) for process in team.processes}

    def on_failed(rank: int, message: RankPairFailed) -> None:
        ranks[rank].on_notice(message)

    team.on_notice(RankPairFailed, on_failed)
    return list(ranks.values())


def make_host_tier(
    host_cache_bytes: int, layout: KvLayout, pool: BlockPool, cache: CacheRegion
) -> HostTier | None:
    """Host memory behind the cache; None for 0 bytes. ConfigError for too few or too many."""
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

        from engine.cache.cuda_block_copier import CudaCopier

        assert isinstance(cache.keepalive, Tensor)
        return CudaCopier(cache.keepalive, num_blocks, block_bytes)
    copier = HostCopier(cache, allocate_host(num_blocks * block_bytes), block_bytes)
    copier.start_thread()
    return copier
