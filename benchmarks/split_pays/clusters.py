"""Clusters of two workers of one thread each, and what they tell of their steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.checkpoints import SHAPES, directory_of
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from router.config import Roles
from router.placing.placement_request import Split
from runtime.session import open_session
from sim.evaluate import STEP_SHARE
from sim.machine import MachineModel
from wire.messages import Hello, WorkerCard
from wire.reports import Report, StepCosts

CHUNK_TOKENS = 512
OPEN_S = 60
SIMULATED_BLOCK = 512


class Policy(msgspec.Struct, frozen=True):
    """How a cluster uses its two workers."""

    name: str
    roles: Roles
    split: Split


AUTO = Policy("auto", Roles.FOLLOW, Split.AUTO)
NEVER = Policy("never", Roles.FIXED, Split.NEVER)
POLICIES = (AUTO, NEVER)


PLAYED: dict[str, Any] = {
    "worker.runner": "arithmetic",
    "worker.num_layers": 12,
    "worker.step_costs": {"step_s": 0.02, "sequence_s": 0.002, "prompt_token_s": 0.0015},
}
"""About what the checkpoint takes on one thread of a CPU with AVX2."""
PLAYED_VOCAB = 2048


class Computing(msgspec.Struct, frozen=True):
    """What computes tokens: a checkpoint on a thread of each worker, or a model that is played."""

    settings: dict[str, Any]
    vocab_size: int


@contextmanager
def computing(model: str, cache: Path | None, *, played: bool) -> Iterator[Computing]:
    """The settings for it, while the checkpoint exists."""
    if played:
        yield Computing(PLAYED, PLAYED_VOCAB)
        return
    threads = {"worker.threads": 1, "worker.most_threads": 1}
    with directory_of(model, cache) as directory:
        yield Computing({"model": str(directory), **threads}, SHAPES[model].vocab)


@contextmanager
def a_cluster(
    computes: Computing, policy: Policy, tpot_s: float | None
) -> Iterator[RunningCluster]:
    """One prefill and one decode worker to begin with, for this target."""
    settings = {
        **computes.settings,
        "worker.chunk_tokens": CHUNK_TOKENS,
        "worker.cache_bytes": 1 << 30,
        "worker.ucx_env": {"UCX_NET_DEVICES": "lo"},
        "worker.tpot_target_s": None if tpot_s is None else STEP_SHARE * tpot_s,
        "router.roles": policy.roles.value,
        "router.split": policy.split.value,
        "router.tpot_target_s": tpot_s,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    with running(load_config(None, given), ProcessLauncher(), lambda line: None) as cluster:
        yield cluster


class Told(msgspec.Struct, frozen=True):
    """What one worker says of itself."""

    card: WorkerCard
    report: Report


async def tell(cluster: RunningCluster) -> list[Told]:
    """The present report of each worker."""
    return list(await asyncio.gather(*map(_tell, cluster.worker_addresses)))


async def _tell(address: str) -> Told:
    opened = await open_session(address, Hello(caller_id="benchmark"), timeout_s=OPEN_S)
    try:
        async with asyncio.timeout(OPEN_S):
            async for message in opened.session.messages():
                if isinstance(message, Report):
                    return Told(opened.card, message)
    finally:
        opened.session.close()
    raise RuntimeError(f"the worker at {address} has ended")


def mean_costs(told: list[Told]) -> StepCosts | None:
    """The mean of the workers' costs; None while one of them is unknown to all."""
    costs = [each.report.costs for each in told if each.report.costs is not None]
    found: dict[str, float] = {}
    for name in StepCosts.__struct_fields__:
        known = [value for each in costs if (value := getattr(each, name)) is not None]
        if not known:
            return None
        found[name] = sum(known) / len(known)
    return StepCosts(**found)


def machine_of(card: WorkerCard, costs: StepCosts) -> MachineModel:
    """A simulated worker with these costs, and this one's cache; its links are as fast as shared
    memory, whatever they are: a prompt's blocks are sent while it is computed."""
    layout = msgspec.structs.replace(card.layout, block_size=SIMULATED_BLOCK)
    return MachineModel(
        **msgspec.structs.asdict(costs),
        pool_tokens=card.num_blocks * card.layout.block_size,
        max_model_len=card.max_model_len,
        layout=layout,
    )
