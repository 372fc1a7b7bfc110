"""On which node of a Ray a process should run: values in, values out.

Ray places what it is asked for wherever there is room. Which of several nodes is the right one
depends on the others of this cluster, so that is decided here, one process after the other: a
replacement finds its node by the same rules.
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
    """One that lives. `free` may be late to tell what was taken last."""

    node_id: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Amounts = field(default_factory=dict)
    free: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a process of one kind wants: of a pool, by its name, or "router"."""

    kind: str
    bundle: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)
    placement: PlacementRule = PlacementRule.PACK


@dataclass(frozen=True, slots=True)
class Placed:
    """A process of this cluster that has its room."""

    demand: Demand
    node_id: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """Kinds that are to be near each other: on nodes with one value of the label `near`."""

    near: str
    shares: Mapping[str, Demand]
    replicas: Mapping[str, int]

    def domain(self, node: Node) -> str:
        """A node without the label is near itself alone."""
        return node.labels.get(self.near, node.node_id)


def ranked(
    demand: Demand,
    nodes: Sequence[Node],
    placed: Sequence[Placed],
    pairing: Pairing | None = None,
    home: str | None = None,
) -> list[Node]:
    """The nodes that have room for it, best first. Among equals the node `home` is the best."""
    rooms = _FreeNodes(nodes, placed)
    open_nodes = [node for node in nodes if _may(demand, node, placed) and rooms.fit(demand, node)]
    paired = pairing if pairing is not None and demand.kind in pairing.shares else None

    def key(node: Node) -> tuple[object, ...]:
        far = () if paired is None else _distance(demand, node, nodes, placed, rooms, paired)
        by_policy = _policy_key(demand, node, placed, rooms)
        return (*far, *by_policy, node.node_id != home, node.address, node.node_id)

    return sorted(open_nodes, key=key)


def home_again(former: Node, nodes: Sequence[Node]) -> Node | None:
    """The node that a process ran on, or the one that is at its address now."""
    same = [node for node in nodes if node.node_id == former.node_id]
    there = [node for node in nodes if node.address == former.address]
    return next(iter(same + there), None)


def shut_out(demand: Demand, placed: Sequence[Placed]) -> list[str]:
    """Nodes on which there may be no other of this kind."""
    if demand.placement is not PlacementRule.ONE_PER_NODE:
        return []
    return [it.node_id for it in placed if it.demand.kind == demand.kind]


def _may(demand: Demand, node: Node, placed: Sequence[Placed]) -> bool:
    return matches(demand.labels, node.labels) and node.node_id not in shut_out(demand, placed)


class _FreeNodes:
    """What is free, were Ray to know at once what this cluster has taken."""

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
                left = node.total.get(resource, 0.0) - amount
                free[resource] = min(free.get(resource, 0.0), left)

    def fit(self, demand: Demand, node: Node, after: Amounts | None = None) -> bool:
        """`after` is what something else takes from this node before."""
        free, before = self._free[node.node_id], after or {}
        return all(
            free.get(resource, 0.0) - before.get(resource, 0.0) >= amount - ROUNDING
            for resource, amount in demand.bundle.items()
        )

    def left(self, demand: Demand, node: Node) -> float:
        """How much of what it wants is free, all resources together."""
        return sum(self._free[node.node_id].get(it, 0.0) for it in demand.bundle)


def _policy_key(
    demand: Demand, node: Node, placed: Sequence[Placed], rooms: _FreeNodes
) -> tuple[float, ...]:
    """Smaller is better. GPUs are kept for those that want them."""
    here = [it for it in placed if it.node_id == node.node_id]
    of_kind = sum(it.demand.kind == demand.kind for it in here)
    wastes = node.total.get("GPU", 0.0) > 0 and not demand.bundle.get("GPU")
    if demand.placement is PlacementRule.PACK:
        return (wastes, -len(here), rooms.left(demand, node))
    return (wastes, of_kind, len(here), -rooms.left(demand, node))


def _distance(
    demand: Demand,
    node: Node,
    nodes: Sequence[Node],
    placed: Sequence[Placed],
    rooms: _FreeNodes,
    pairing: Pairing,
) -> tuple[float, ...]:
    """First where this kind lags most behind the others, then where they have room to follow."""
    near = {it.node_id for it in nodes if pairing.domain(it) == pairing.domain(node)}
    shares = {
        kind: sum(it.demand.kind == kind and it.node_id in near for it in placed)
        / max(1, pairing.replicas[kind])
        for kind in pairing.shares
    }
    own = shares.pop(demand.kind)
    lead = own - max(shares.values(), default=0.0)
    followers = [pairing.shares[kind] for kind in shares if pairing.replicas[kind]]
    lonely = sum(
        not any(
            matches(other.labels, it.labels)
            and rooms.fit(other, it, demand.bundle if it is node else None)
            for it in nodes
            if it.node_id in near
        )
        for other in followers
    )
    return (lead, lonely if lead >= 0 else 0)
