"""What the configuration asks of nodes, for each kind of process."""

from __future__ import annotations

from cluster.config import ClusterConfig
from cluster.placement import Demand, Pairing
from wire.identity import Role

ROUTER = "router"
ACCELERATOR_SHARE = 0.001
NOTHING = {"CPU": 0.001}
"""A bundle must have something in it."""


def worker_demand(config: ClusterConfig, role: Role) -> Demand:
    """One bundle: Ray never divides it among nodes, so a worker's GPUs are all on one."""
    pool = config.pool(role)
    bundle = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    if pool.accelerator_type is not None:
        bundle[f"accelerator_type:{pool.accelerator_type}"] = ACCELERATOR_SHARE
    return Demand(role.value, _positive(bundle) or NOTHING, pool.labels, pool.placement)


def router_demand(config: ClusterConfig) -> Demand:
    wanted = config.ray.routers
    bundle = _positive({"CPU": wanted.num_cpus, **wanted.resources})
    return Demand(ROUTER, bundle, wanted.labels, wanted.placement)


def pairing(config: ClusterConfig) -> Pairing | None:
    """None where all links between nodes are alike."""
    if config.ray.near is None:
        return None
    return Pairing(
        near=config.ray.near,
        shares={role.value: worker_demand(config, role) for role in Role},
        replicas={role.value: config.pool(role).replicas for role in Role},
    )


def _positive(bundle: dict[str, float]) -> dict[str, float]:
    return {resource: amount for resource, amount in bundle.items() if amount > 0}
