"""Node placement on Ray, as pure functions.

Ray places a request wherever resources are free. The best of several nodes depends on the cluster's
other processes, so it is chosen here, one process at a time; a replacement finds its node by the
same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.labels import matches
from cluster.ray_config import PlacementRule

Amounts = Mapping[str, float]
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Node:
    """A live node. `free` may lag behind the latest placements."""

    node_id: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Amounts = field(default_factory=dict)
    free: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """The resources that a process of one kind needs. `kind` is a pool's name, or "router"."""

    kind: str
    bundle: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)
    placement: PlacementRule = PlacementRule.PACK


@dataclass(frozen=True, slots=True)
class Placed:
    """A placed process of this cluster."""

    demand: Demand
    node_id: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """Kinds to place near each other: on nodes with the same value of the label `near`."""

    near: str
    demands: Mapping[str, Demand]
    replicas: Mapping[str, int]

    def domain(self, node: Node) -> str:
        """The value of the label; a node without the label is a domain of its own."""
        return node.labels.get(self.near, node.node_id)


def ranked(
    demand: Demand,
    nodes: Sequence[Node],
    placed: Sequence[Placed],
    pairing: Pairing | None = None,
    home: str | None = None,
) -> list[Node]:
    """The nodes that can take the process, best first. Ties go to the node `home`."""
    free = _FreeResources(nodes, placed)
    open_nodes = [
        node for node in nodes if _is_allowed(demand, node, placed) and free.fit(demand, node)
    ]
    paired = pairing if pairing is not None and demand.kind in pairing.demands else None

    def key(node: Node) -> tuple[object, ...]:
        far = () if paired is None else _pairing_key(demand, node, nodes, placed, free, paired)
        by_policy = _policy_key(demand, node, placed, free)
        return (*far, *by_policy, node.node_id != home, node.address, node.node_id)

    return sorted(open_nodes, key=key)


def same_node(former: Node, nodes: Sequence[Node]) -> Node | None:
    """The node that a process ran on, or the one that has its address now."""
    same = [node for node in nodes if node.node_id == former.node_id]
    there = [node for node in nodes if node.address == former.address]
    return next(iter(same + there), None)


def excluded_nodes(demand: Demand, placed: Sequence[Placed]) -> list[str]:
    """Nodes that may not get another process of this kind."""
    if demand.placement is not PlacementRule.ONE_PER_NODE:
        return []
    return [it.node_id for it in placed if it.demand.kind == demand.kind]


def _is_allowed(demand: Demand, node: Node, placed: Sequence[Placed]) -> bool:
    excluded = excluded_nodes(demand, placed)
    return matches(demand.labels, node.labels) and node.node_id not in excluded


class _FreeResources:
    """Free resources, less those of this cluster's placements that Ray does not yet count."""

    def __init__(self, nodes: Sequence[Node], placed: Sequence[Placed]) -> None:
        self._free = {node.node_id: dict(node.free) for node in nodes}
        taken: dict[str, dict[str, float]] = {}
        for it in placed:
            amounts = taken.setdefault(it.node_id, {})
            for resource, amount in it.demand.bundle.items():
                amounts[resource] = amounts.get(resource, 0.0) + amount
        for node in nodes:
            free = self._free[node.node_id]
            for resource, amount in taken.get(node.node_id, {}).items():
                available = node.total.get(resource, 0.0) - amount
                free[resource] = min(free.get(resource, 0.0), available)

    def fit(self, demand: Demand, node: Node, after: Amounts | None = None) -> bool:
        """Whether the demand fits the node, `after` other resources were taken from it."""
        free, before = self._free[node.node_id], after or {}
        return all(
            free.get(resource, 0.0) - before.get(resource, 0.0) >= amount - ROUNDING
            for resource, amount in demand.bundle.items()
        )

    def total_free(self, demand: Demand, node: Node) -> float:
        """The free amount of the demanded resources, summed."""
        return sum(self._free[node.node_id].get(it, 0.0) for it in demand.bundle)


def _policy_key(
    demand: Demand, node: Node, placed: Sequence[Placed], free: _FreeResources
) -> tuple[float, ...]:
    """Sort key of the placement rule; smaller is better. Nodes with GPUs are left to kinds that use
    them."""
    here = [it for it in placed if it.node_id == node.node_id]
    of_kind = sum(it.demand.kind == demand.kind for it in here)
    wastes = node.total.get("GPU", 0.0) > 0 and not demand.bundle.get("GPU")
    if demand.placement is PlacementRule.PACK:
        return (wastes, -len(here), free.total_free(demand, node))
    return (wastes, of_kind, len(here), -free.total_free(demand, node))


def _pairing_key(
    demand: Demand,
    node: Node,
    nodes: Sequence[Node],
    placed: Sequence[Placed],
    free: _FreeResources,
    pairing: Pairing,
) -> tuple[float, ...]:
    """Sort key of a pairing: first domains where this kind lags most behind the others, then
    domains in which the others still fit."""
    near = {it.node_id for it in nodes if pairing.domain(it) == pairing.domain(node)}
    fractions = {
        kind: sum(it.demand.kind == kind and it.node_id in near for it in placed)
        / max(1, pairing.replicas[kind])
        for kind in pairing.demands
    }
    own = fractions.pop(demand.kind)
    lead = own - max(fractions.values(), default=0.0)
    others = [pairing.demands[kind] for kind in fractions if pairing.replicas[kind]]
    num_unpaired = sum(
        not any(
            matches(other.labels, it.labels)
            and free.fit(other, it, demand.bundle if it is node else None)
            for it in nodes
            if it.node_id in near
        )
        for other in others
    )
    return (lead, num_unpaired if lead >= 0 else 0)
