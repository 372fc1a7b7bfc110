"""Resource demands: the node resources that each kind of process requests."""

from __future__ import annotations

from cluster.config import ClusterConfig
from cluster.placement import Demand, Pairing
from cluster.pools import ROUTER, PoolConfig

ACCELERATOR_SHARE = 0.001
EMPTY_BUNDLE = {"CPU": 0.001}
"""Placeholder for a process without demands, since Ray refuses empty bundles."""


def worker_demand(pool: PoolConfig) -> Demand:
    """The demand of one worker: a single bundle, which Ray never splits, so its GPUs share a
    node."""
    bundle = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    if pool.accelerator_type is not None:
        bundle[f"accelerator_type:{pool.accelerator_type}"] = ACCELERATOR_SHARE
    return Demand(pool.name, _positive(bundle) or EMPTY_BUNDLE, pool.labels, pool.placement)


def router_demand(config: ClusterConfig) -> Demand:
    wanted = config.ray.routers
    bundle = _positive({"CPU": wanted.num_cpus, **wanted.resources})
    return Demand(ROUTER, bundle, wanted.labels, wanted.placement)


def pairing(config: ClusterConfig, model: str) -> Pairing | None:
    """The pools of one model as a pairing, since KV blocks go between them alone.

    None when `ray.near` is not set: all links between nodes count as alike.
    """
    if config.ray.near is None:
        return None
    return Pairing(
        near=config.ray.near,
        demands={pool.name: worker_demand(pool) for pool in config.pools_of(model)},
        replicas={pool.name: pool.replicas for pool in config.pools_of(model)},
    )


def _positive(bundle: dict[str, float]) -> dict[str, float]:
    return {resource: amount for resource, amount in bundle.items() if amount > 0}
