"""What the configuration asks of nodes, for each kind of process."""

from __future__ import annotations

from cluster.config import ClusterConfig
from cluster.placement import Demand, Pairing
from cluster.pools import ROUTER, PoolConfig

ACCELERATOR_SHARE = 0.001
NOTHING = {"CPU": 0.001}
"""A bundle must have something in it."""


def worker_demand(pool: PoolConfig) -> Demand:
    """One bundle: Ray never divides it among nodes, so a worker's GPUs are all on one."""
    bundle = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    if pool.accelerator_type is not None:
        bundle[f"accelerator_type:{pool.accelerator_type}"] = ACCELERATOR_SHARE
    return Demand(pool.name, _positive(bundle) or NOTHING, pool.labels, pool.placement)


def router_demand(config: ClusterConfig) -> Demand:
    wanted = config.ray.routers
    bundle = _positive({"CPU": wanted.num_cpus, **wanted.resources})
    return Demand(ROUTER, bundle, wanted.labels, wanted.placement)


def pairing(config: ClusterConfig, model: str) -> Pairing | None:
    """Of the pools of one model, for KV blocks go between no others. None where all links between
    nodes are alike."""
    if config.ray.near is None:
        return None
    return Pairing(
        near=config.ray.near,
        shares={pool.name: worker_demand(pool) for pool in config.pools_of(model)},
        replicas={pool.name: pool.replicas for pool in config.pools_of(model)},
    )


def _positive(bundle: dict[str, float]) -> dict[str, float]:
    return {resource: amount for resource, amount in bundle.items() if amount > 0}
