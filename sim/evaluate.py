"""One simulated run from pools of workers to its figures; `tandem simulate` and `tandem plan` use
it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from router.placing.placement_request import Slo
from sim.busy_share import BusyShare
from sim.policies import ServingPolicy
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.summary import Run, Summary, summarize
from sim.traces import Arrival
from sim.warm_up import NUM_WARM, WarmUp
from sim.worker import SETTINGS
from worker.config import WorkerConfig

STEP_SHARE = 0.95
"""Steps aim at this share of the target for the time per output token, so that tokens keep it."""
NUM_TICKS = 100
Progress = Callable[[float], None]


def worker_settings(targets: Slo, chunk_tokens: int | None = None) -> WorkerConfig:
    """A simulated worker's settings for these targets; steps have at most `chunk_tokens` prompt
    tokens, 512 where it is None."""
    target_s = None if targets.tpot_s is None else STEP_SHARE * targets.tpot_s
    return msgspec.structs.replace(SETTINGS, tpot_target_s=target_s, chunk_tokens=chunk_tokens)


def evaluate(
    pools: Sequence[WorkerPool],
    policy: ServingPolicy,
    arrivals: Sequence[Arrival],
    targets: Slo,
    seed: int = 0,
    *,
    price_per_hour: float | None = None,
    settings: RouterSettings | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Serve the requests and sum up; equal arguments give equal figures.

    Every run begins with the same few requests, which teach the router what steps take and are in
    none of the figures.

    Args:
        pools: See `worker_settings` for what their settings have to follow from the targets.
        arrivals: At least one, by time.
        targets: Those of every request.
        price_per_hour: The price of all workers together.
        settings: The router's, where they differ from the policy's own.
        progress: Called with the share of the trace that has arrived, up to 1.
    """
    cluster = SimulatedCluster(pools, settings or policy.router_settings(), seed)
    warm_up = WarmUp.of(pools)
    requests = warm_up.before(arrivals)
    end_s = requests[-1].at_s
    busy = BusyShare(cluster.clock, cluster.workers.values(), warm_up.end_s, end_s)
    if progress is not None:
        _follow(cluster, end_s, progress)
    results = cluster.run(requests, lambda _: targets)
    run = Run(
        policy=policy.value,
        num_workers=len(cluster.workers),
        busy_share={role.value: share for role, share in busy.by_role().items()},
        workers={role.value: number for role, number in busy.workers_by_role().items()},
        num_role_changes=sum(time_s >= warm_up.end_s for time_s, _ in cluster.role_changes),
        price_per_hour=price_per_hour,
    )
    return summarize(run, results[NUM_WARM:])


def _follow(cluster: SimulatedCluster, end_s: float, progress: Progress) -> None:
    for number in range(1, NUM_TICKS + 1):
        share = number / NUM_TICKS
        cluster.clock.at(end_s * share, partial(progress, share))
