"""The number of workers of each pool, within its bounds, as routers want them; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from cluster.config import ClusterConfig
from cluster.pools import PoolConfig
from router.config import Roles
from router.roles.model_status import StatusBody
from wire.identity import Role

WantedCounts = Mapping[tuple[str, Role], int]
"""Number of workers wanted of a model, by the role of their pool."""


def scales(config: ClusterConfig) -> bool:
    """Whether any pool's number of workers may change."""
    return any(pool.max_workers is not None for pool in config.pools)


def wanted_by(statuses: Iterable[StatusBody]) -> dict[tuple[str, Role], int]:
    """The largest number that any router wants: each counts on the others having as much to do."""
    found: dict[tuple[str, Role], int] = {}
    for status in statuses:
        for model in status.models:
            for role, count in ({} if model.wanted is None else model.wanted.counts).items():
                key = model.name, role
                found[key] = max(count, found.get(key, 0))
    return found


def replicas_for(
    config: ClusterConfig, wanted: WantedCounts, present: Mapping[str, int]
) -> dict[str, int]:
    """Number of workers for each pool that scales.

    Pools of one model and role fill in the order of the file. A model of which nothing is known
    keeps its `present` numbers. Where roles follow the load, workers that exceed the bounds of one
    role's pools are added to those of the other: they can take either role.
    """
    counts = {
        pool.name: _within(pool, present.get(pool.name, pool.replicas))
        for pool in config.pools
        if pool.max_workers is not None
    }
    left: Counter[str] = Counter()
    for (model, role), count in wanted.items():
        pools = [it for it in config.pools_of(model) if it.role is role]
        left[model] += _fill(pools, count, counts)
    if config.router.roles is Roles.FOLLOW:
        for model, count in left.items():
            _spread(config.pools_of(model), count, counts)
    return counts


def with_replicas(config: ClusterConfig, replicas: Mapping[str, int]) -> ClusterConfig:
    """The configuration with these numbers in place of those of the file, within bounds."""
    pools = tuple(
        msgspec.structs.replace(pool, replicas=_within(pool, replicas[pool.name]))
        if pool.max_workers is not None and pool.name in replicas
        else pool
        for pool in config.pools
    )
    return msgspec.structs.replace(config, pools=pools)


def _within(pool: PoolConfig, count: int) -> int:
    assert pool.max_workers is not None
    return min(pool.max_workers, max(pool.min_workers, count))


def _fill(pools: list[PoolConfig], count: int, counts: dict[str, int]) -> int:
    """Share the count out; returns how many found no place."""
    scaled = [pool for pool in pools if pool.max_workers is not None]
    count -= sum(pool.replicas for pool in pools if pool.max_workers is None)
    count -= sum(pool.min_workers for pool in scaled)
    for pool in scaled:
        counts[pool.name] = _within(pool, pool.min_workers + max(0, count))
        count -= counts[pool.name] - pool.min_workers
    return max(0, count)


def _spread(pools: list[PoolConfig], count: int, counts: dict[str, int]) -> None:
    for pool in pools:
        if pool.max_workers is not None:
            more = min(count, pool.max_workers - counts[pool.name])
            counts[pool.name] += more
            count -= more
